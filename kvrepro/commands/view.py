"""`kvrepro view`: the pages of the results in a browser, with pictures of any reply."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import KvreproError, did_you_mean
from ..paths import results_root
from ..runs.profiles import comparison_names, profile_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the port, and whether a browser opens."""
    parser.add_argument("profile", nargs="?", help="whose page to open; without it the page over all profiles")
    parser.add_argument("--port", type=int, metavar="N", help="port to listen at (default: 8421, or the next free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the address and open no browser")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Serve until a signal ends the command; the address is printed before that."""
    from ..pages.server import ResultsServer

    if args.port is not None and not 1 <= args.port <= 65535:
        raise KvreproError(f"--port={args.port}: a port is a number from 1 to 65535")
    root = results_root()
    _check_page(root, args.profile)
    with ResultsServer.at(root, args.port) as server:
        url = server.url + (f"{quote(args.profile)}/" if args.profile else "")
        if args.json:
            # the one object comes now: the end of this command is a signal
            print(json.dumps({"url": url, "results": str(root)}), file=sys.__stdout__, flush=True)
        print(f"{url} shows {root}; Ctrl-C ends it", flush=True)
        if not args.no_browser and (browser := _browser()) is not None:
            threading.Thread(target=browser.open, args=[url], daemon=True).start()
        server.serve_forever()
    return {"url": url, "results": str(root)}


def _check_page(root: Path, profile: str | None) -> None:
    """Raise `KvreproError`, which names the command that makes it, where there is no page to open."""
    known = sorted(path.parent.name for path in root.glob("[!.]*/index.html"))
    if profile is not None and profile not in known:
        is_folder = Path(profile).name == profile and (root / profile).is_dir()
        if is_folder and profile not in [*profile_names(), *comparison_names()]:
            # as of `kvrepro run --set`
            raise KvreproError(
                f"{root / profile} holds cells of no profile, which have no page: open the run.ipynb of one, or give "
                "them a profile (docs/profiles.md)"
            )
        raise KvreproError(
            f"{profile!r} has no page in {root}: `kvrepro summary {profile}` makes it{did_you_mean(profile, known)}"
        )
    if profile is None and not (root / "index.html").is_file():
        there = f", or name one that has a page: {', '.join(known)}" if known else ""
        raise KvreproError(f"{root} has no page over all profiles: `kvrepro summary PROFILE` makes it{there}")


def _browser() -> webbrowser.BaseBrowser | None:
    """A browser with windows; one that would take the terminal is none."""
    try:
        found = webbrowser.get()
    except webbrowser.Error:
        return None
    return None if type(found) is webbrowser.GenericBrowser else found
