"""Subcommands of `kvrepro`, one module each: NAME, HELP, `add_arguments(parser)` and `run(args) -> dict`.

`sources` is no command: it holds what those share that run a model over sequences.
"""
