"""What a page of 325 cells and 50,050 replies weighs and how soon it can be used; by hand, in minutes:
`python -m tests.browser.large_page`.

One cell is run for real; the other cells are copies of it under their own ids. Then the page is written twice, and
Chromium opens it from the disk. The same for one cell with 1,000 replies. Prints a JSON object: seconds, MB of 10^6
bytes, medians of the rounds; a table can be used once its heads sort, a cell's page once its replies filter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from kvrepro.files import write_atomic, write_json, write_rows
from kvrepro.runs.folder import MANIFEST, RECORDS, read_manifest, read_records
from kvrepro.runs.profiles import COMPARISON, COMPARISON_FILE, Profile, load_profile

from .places import find_chromium, kvrepro

LARGE, CROWDED = f"{COMPARISON}large", f"{COMPARISON}crowded"
N_BUDGETS = 16
SIZES, CROWD = (77, 2), (100, 10)  # problems and replies to each
PANELS = (
    ("tiny-r1-llama", "chain-12"),
    ("tiny-r1-llama", "sum-16"),
    ("tiny-r1-llama", "choice-18"),
    ("tiny-r1-qwen", "chain-12"),
    ("tiny-r1-qwen", "sum-16"),
)
METHODS = ("full", "dynts", "random", "window", "h2o")
# records and executed notebooks are the results themselves, not the page
RESULTS = {"records.jsonl", "manifest.json", "run.ipynb"}


def write_profile(results: Path, name: str, panels: list[dict], n_problems: int, n_samples: int) -> Profile:
    """A profile of its own below the results."""
    defaults = {"n_problems": n_problems, "n_samples": n_samples, "max_new_tokens": 600, "protocol": "fair"}
    content = {"title": name, "methods": list(METHODS), "defaults": defaults, "panels": panels}
    (results / name).mkdir(parents=True)
    write_atomic(results / name / COMPARISON_FILE, json.dumps(content))
    return load_profile(name)


def copy_cells(results: Path, profile: Profile, source: str, n_replies: int) -> None:
    """Every other cell of the profile as a copy of the finished one."""
    origin = results / source
    manifest, records = read_manifest(origin), read_records(origin)
    turns, n_samples = n_replies // len(records) + 1, 1 + max(record["sample_id"] for record in records)
    replies = [
        {**record, "sample_id": turn * n_samples + record["sample_id"]} for turn in range(turns) for record in records
    ][:n_replies]
    for cell in profile.cells:
        folder = results / profile.name / cell.cell_id
        if folder == origin:
            continue
        folder.mkdir(parents=True)
        shutil.copy(origin / "run.ipynb", folder)
        write_rows(folder / RECORDS, replies)
        own = {"cell_id": cell.cell_id, "config": cell.resolved(), "n_records": n_replies, "records_sha256": None}
        write_json(folder / MANIFEST, {**manifest, **own})


def seconds(results: Path, *arguments: str) -> float:
    """Wall clock of a command."""
    began = time.monotonic()
    kvrepro(results, *arguments)
    return round(time.monotonic() - began, 1)


def megabytes(paths) -> float:
    return round(sum(path.stat().st_size for path in paths if path.is_file()) / 1e6, 2)


def weights(folder: Path) -> dict[str, float]:
    """Of the page with what it loads, of everything beside the results, and of the heaviest cell's page."""
    pages = list(folder.rglob("replies.html"))
    site = [path for path in folder.rglob("*") if path.name not in RESULTS and "logs" not in path.parts]
    index = [folder / "index.html", *(folder / "assets").iterdir(), *(folder / "figures").glob("*.png")]
    return {
        "index_html_mb": megabytes([folder / "index.html"]),
        "index_and_assets_mb": megabytes(index),
        "site_without_records_mb": megabytes(site),
        "heaviest_replies_page_mb": max(megabytes([page]) for page in pages),
        "files": len(site),
    }


def usable_s(browser: Browser, address: str, ready: str, rounds: int) -> float:
    """Median time from the request to the first picture of a page whose script has run."""
    found = []
    for _ in range(rounds):
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        page = context.new_page()
        began = time.monotonic()
        page.goto(address, wait_until="commit")
        page.locator(ready).first.wait_for()
        page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        found.append(time.monotonic() - began)
        context.close()
    return round(statistics.median(found), 2)


def action_ms(browser: Browser, address: str, action: str, rounds: int) -> float:
    """Median time from an action on an open page to the next picture of it."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto(address)
    script = (
        f"new Promise((done) => {{ const began = performance.now(); {action}; requestAnimationFrame(() => "
        "requestAnimationFrame(() => done(performance.now() - began))); })"
    )
    found = [page.evaluate(script) for _ in range(rounds)]
    context.close()
    return round(statistics.median(found))


def main() -> None:
    """Make both, weigh and time them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where the results go and stay")
    args = parser.parse_args()
    if (path := find_chromium()) is None:
        sys.exit("needs Chromium or Chrome, such as `apt-get install chromium`")
    with tempfile.TemporaryDirectory() as temporary:
        results = args.keep or Path(temporary)
        os.environ["KVREPRO_RESULTS"] = str(results)
        panels = [
            {"model": model, "benchmark": benchmark, "budgets": list(range(176, 176 + 8 * N_BUDGETS, 8))}
            for model, benchmark in PANELS
        ]
        profile = write_profile(results, LARGE, panels, *SIZES)
        # at the smallest budget, which what it held is also within all others
        first = next(cell.cell_id for cell in profile.cells if cell.method == "dynts")
        kvrepro(results, "run", "--profile", LARGE, "--cell", first)
        copy_cells(results, profile, f"{LARGE}/{first}", math.prod(SIZES))
        crowd = [{"model": "tiny-r1-llama", "benchmark": "chain-12", "budgets": [176], "methods": ["dynts"]}]
        crowded = write_profile(results, CROWDED, crowd, *CROWD)
        copy_cells(results, crowded, f"{LARGE}/{first}", math.prod(CROWD))
        built = {f"{turn}_s": seconds(results, "summary", LARGE) for turn in ("first", "again")}
        kvrepro(results, "summary", CROWDED)
        index, cell = ((results / LARGE / place).as_uri() for place in ("index.html", f"{first}/replies.html"))
        many = (results / CROWDED / crowded.cells[0].cell_id / "replies.html").as_uri()
        head, controls = "table[data-sortable] th[aria-sort] button", "form.controls:not([hidden])"
        sort = f"document.querySelector('{head}').click()"
        search = (
            "const field = document.querySelector('[name=search]'); field.value = 'boxed';"
            "document.querySelector('[name=show]').dispatchEvent(new Event('input'))"
        )
        rounds = args.rounds
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
            usable_s(browser, index, head, 1)
            result = {
                "cells": len(profile.cells),
                "replies": len(profile.cells) * math.prod(SIZES),
                "summary": built,
                **weights(results / LARGE),
                "index_usable_s": usable_s(browser, index, head, rounds),
                "index_sort_ms": action_ms(browser, index, sort, rounds),
                "replies_usable_s": usable_s(browser, cell, controls, rounds),
                "replies_1000_mb": weights(results / CROWDED)["heaviest_replies_page_mb"],
                "replies_1000_usable_s": usable_s(browser, many, controls, rounds),
                "replies_1000_search_ms": action_ms(browser, many, search, rounds),
                "load": round(os.getloadavg()[0], 1),
            }
            browser.close()
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
