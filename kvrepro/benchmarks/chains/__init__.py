"""The language of the tiny models: chains of definitions, their problems and their vocabulary."""
