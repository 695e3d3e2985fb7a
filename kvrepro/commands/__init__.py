"""Subcommands of `kvrepro`, one module each: NAME, HELP, `add_arguments(parser)` and `run(args) -> dict`."""
