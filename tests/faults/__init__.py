"""Faults of a grid: what happens to it, and whether every cell is then made once and kept.

A new kind is a function of a `Lab` and a row of a table.
"""
