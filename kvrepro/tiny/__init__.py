"""Two tiny reasoning models that the repository trains itself, and the problems they reason about."""
