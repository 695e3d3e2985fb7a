"""Eviction methods, which only score, and what they share: base class, views, budgets, table, trained parts."""
