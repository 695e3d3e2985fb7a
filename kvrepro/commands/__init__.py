"""Subcommands of `kvrepro`, one module each: NAME, HELP, `add_arguments(parser)` and `run(args) -> dict`.

`arguments` is no command: it holds what several of them share.
"""
