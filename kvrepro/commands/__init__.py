"""Subcommands of `kvrepro`, one module each: `add_arguments(parser)` and `run(args) -> dict`.

`cli.COMMANDS` names them; `arguments` is no command: it holds what several of them share.
"""
