"""Subcommands of `kvrepro`, one module each: `add_arguments(parser)` and `run(args) -> dict`.

`cli.COMMANDS` names them; `arguments` and `printing` are no commands: they hold what several of them share.
"""
