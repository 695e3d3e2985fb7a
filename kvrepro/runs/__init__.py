"""Cells, from a profile to a graded folder, and what is known about them before and after."""
