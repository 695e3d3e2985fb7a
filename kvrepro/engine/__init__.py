"""Requests in, completions out: the one decode loop."""
