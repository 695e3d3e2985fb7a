"""`kvrepro throughput`: how fast the finished cells of a profile decode, panel by panel, apart from their runs."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from typing import Any

from ..claims import held
from ..errors import KvreproError, check_known
from ..files import write_json
from ..paths import results_root
from ..runs.gpus import claimed_gpus
from ..runs.profiles import load_profile
from ..runs.throughput import Panel
from .printing import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, which panels, and what to do with those that are measured already."""
    parser.add_argument("profile")
    panel = "only this panel, for example tiny-r1-llama/chain-12; repeatable (default: all whose cells are complete)"
    parser.add_argument("--panel", action="append", default=[], metavar="MODEL/BENCHMARK", help=panel)
    parser.add_argument("--rounds", type=int, help="rounds instead of the profile's, at least 5")
    gpus = "devices of KVREPRO_GPUS to hold meanwhile, where that is set (default: 1)"
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help=gpus)
    parser.add_argument("--again", action="store_true", help="also panels that need not be measured again")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what is not measured, or was too noisy, or in fewer rounds; print a table per panel.

    Panels that are not complete are named and left.

    Raises:
        KvreproError: the profile asks for no throughput, a panel that it does not have or whose cells are missing.
    """
    profile = load_profile(args.profile)
    if (settings := profile.throughput) is None:
        raise KvreproError(
            f"profile {profile.name} asks for no throughput: add `throughput: {{rounds: 5, rows: 48}}` to its file"
        )
    if args.rounds is not None:
        profile = replace(profile, throughput=replace(settings, rounds=args.rounds))
    panels = {panel.name: panel for panel in Panel.all_of(profile)}
    check_known(f"panel of profile {profile.name}", panels, *args.panel)
    verdicts, incomplete = {}, []
    lock = results_root() / profile.name / ".throughput.lock"
    # two at once would disturb each other
    with held(lock, f"throughput of {profile.name}", wait=True), claimed_gpus(args.gpus):
        for name in args.panel or panels:
            panel = panels[name]
            if panel.lacks and not args.panel:
                print(f"not measured: {panel.lacks}", file=sys.stderr)
                incomplete.append(name)
            else:
                verdicts[name] = _measured(panel, args.again)["verdict"]
    if not verdicts:
        print(f"{profile.name}: no panel is complete, so none was measured")
    return {"profile": profile.name, "verdicts": verdicts, "incomplete": incomplete}


def _measured(panel: Panel, again: bool) -> dict[str, Any]:
    """What is known of a panel, measured where that is not settled or is to be done `again`."""
    if not again and panel.is_settled:
        found, state = panel.read(), "measured already"
    else:
        from ..bench.throughput import measure_panel

        found, state = measure_panel(panel, panel.settings), "measured"
        panel.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(panel.path, found)
    load = found["load"]
    print(
        f"{panel.name}: {_verdicts(found)}, {state} in {found['rounds']} rounds of {found['rows']} rows; others kept "
        f"{100 * load['mean']:.0f} % of the cores busy, {100 * load['max']:.0f} % at most"
    )
    print_table(
        {
            "cell": cell_id.split("/")[2],
            "tokens/s": _shown(cell, "decode_tps", 0),
            "of full": _shown(cell, "tps_vs_full", 2),
            "rows": f"{cell['live_rows_mean']:.1f}",
        }
        for cell_id, cell in found["cells"].items()
    )
    for cell_id, cell in found["cells"].items():
        if cell["refitted"] or cell["evictions"] != cell["recorded_evictions"]:
            print(
                f"{cell_id}: not quite what it ran: {cell['evictions']} evictions, {cell['recorded_evictions']} when "
                f"it ran; {cell['refitted']} replies whose text gives another number of tokens than they had",
                file=sys.stderr,
            )
    return found


def _verdicts(found: dict[str, Any]) -> str:
    """The panel's verdict, and those of its methods where they differ."""
    methods = {label: method["verdict"] for label, method in found["methods"].items()}
    apart = ", ".join(f"{label} {word}" for label, word in methods.items()) if len(set(methods.values())) > 1 else ""
    return found["verdict"] + (f" ({apart})" if apart else "")


def _shown(cell: dict[str, Any], name: str, places: int) -> str:
    """A median and its interval."""
    if cell[name] is None:
        return "-"
    return "{:.{p}f} ({:.{p}f} to {:.{p}f})".format(*(cell[f"{name}{end}"] for end in ("", "_lo", "_hi")), p=places)
