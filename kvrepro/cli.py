"""The command line: parse, call one command, print its result, exit 0 (done), 1 (failed), 2 (usage) or 128 + signal."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib import import_module

from .errors import KvreproError, RunError
from .paths import pin_folders
from .stopping import Stopped, stopped_by_signals

COMMANDS = (
    "list", "fetch", "plan", "rehearse", "run", "grid", "status", "summary", "traces", "labels", "train", "calibrate",
    "train-judge", "bench", "gpu-check", "grade", "power",
)  # fmt: skip
_MODULES = {"list": "listing", "train-judge": "train_judge", "gpu-check": "gpu_check"}


def build_parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    parser = argparse.ArgumentParser(prog="kvrepro", description="Reproduce results on KV-cache compression.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        module = import_module(f".commands.{_MODULES.get(name, name)}", __package__)
        sub = subparsers.add_parser(module.NAME, help=module.HELP, description=module.HELP)
        module.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print nothing but one JSON object")
        sub.set_defaults(module=module)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; the last line of output is one JSON object."""
    args = build_parser().parse_args(argv)
    pin_folders()
    shown = sys.stdout
    try:
        # with --json what a command prints for people is not wanted; its result is printed below
        with stopped_by_signals(), open(os.devnull, "w") as nowhere:
            sys.stdout = nowhere if args.json else shown
            result = args.module.run(args)
            sys.stdout = shown
    except KvreproError as error:
        print(f"kvrepro {args.command}: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"kvrepro {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"kvrepro {args.command}: stopped; what was finished is kept, the same command goes on", file=sys.stderr)
        if isinstance(error, Stopped):
            # nothing is left to tidy up, and an orderly end with torch loaded takes seconds on a busy machine
            os._exit(error.exit_code)
        return 130
    finally:
        sys.stdout = shown
    exit_code = int(result.pop("exit_code", 0))
    print(json.dumps(result))
    return exit_code
