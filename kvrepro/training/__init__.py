"""Traces, labels and trained parts: the importance head, the judge, query statistics, the tiny models."""
