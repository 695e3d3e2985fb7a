"""Torch twins of the kernels: plain formulas over rows of different length, float32 inside; the definition of correct.

A twin has its kernel's name. Where a CPU has a faster form, that stands beside it under a name of its own, and the
tests hold the two to each other.
"""
