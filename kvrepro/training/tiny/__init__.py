"""The two tiny reasoning models, from random weights to a model card."""
