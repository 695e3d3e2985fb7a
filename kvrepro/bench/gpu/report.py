"""The JSON file of `gpu-check`: what every process wrote, merged as it comes, and replaced whole."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...files import write_json
from ...runs.provenance import git_revision, package_versions
from .plan import Settings
from .verdict import data_sheet, named, with_bounds

TABLES = (
    *("rates", "correct", "decode", "profile", "products", "checks", "kernels"),
    *("warm", "skipped", "errors", "parts"),
)
# kind of rate -> key of the best one
BEST = {"copy": "copy_bytes_per_s", "read": "read_bytes_per_s"}


class Report:
    """The file under construction.

    Args:
        device: name, memory and versions of what is measured.
    """

    def __init__(self, path: Path, settings: Settings, device: dict[str, Any]):
        self.path = path
        self.data: dict[str, Any] = {"device": device, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        self.data |= {"versions": package_versions(), "revision": git_revision(), "settings": asdict(settings)}
        self.data["data_sheet_bytes_per_s"] = data_sheet(device)
        self.data |= dict.fromkeys(BEST.values()) | {name: [] for name in TABLES}
        self._is_written = False

    def add(self, table: str, row: dict[str, Any]) -> None:
        """A row of a table; decode rows get their bounds, a rate the place of the best of its kind."""
        if table == "rates":
            key = BEST[row["kind"]]
            self.data[key] = max(self.data[key] or 0.0, row["bytes_per_s"])
        if table == "decode":
            row = with_bounds(row, self.data[BEST["read"]], self.data["data_sheet_bytes_per_s"])
        self.data[table].append(row)
        self._is_written = False
        if line := _line(table, row):
            print(line, flush=True)

    def close(self, **summary: Any) -> None:
        """Add what is known at the end, and write."""
        self.data |= summary
        self._is_written = False
        self.write()

    def write(self) -> None:
        """Replace the file, if anything came since."""
        if not self._is_written:
            write_json(self.path, self.data)
            self._is_written = True

    @property
    def known(self) -> dict[str, Any]:
        """What later parts need of earlier ones: the copy's rate, and the kernels whose checks all passed."""
        checks = self.data["checks"]
        broken = {c["stem"] for c in checks if not c["ok"]}
        broken |= {e["stem"] for e in self.data["errors"] + self.data["skipped"] if "stem" in e}
        broken |= {p["unit"] for p in self.data["parts"] if p["part"] == "kernel-checks" and p["rc"] != 0}
        passed = sorted({c["stem"] for c in checks} - broken)
        return {"copy_bytes_per_s": self.data["copy_bytes_per_s"], "passed": passed}


def _line(table: str, row: dict[str, Any]) -> str | None:
    """What is printed for people; nothing of rows that come by the hundred, unless they are wrong."""
    name, why = named(row), row.get("why") or row.get("error")
    # of the output of a process, what it said last
    said = f": {why.splitlines()[-1 if table == 'parts' else 0][:200]}" if why else ""
    if table in ("skipped", "errors"):
        return f"{table}: {name}{said}"
    if table == "rates":
        return f"rate: {name}: {row['bytes_per_s'] / 1e9:.0f} GB/s"
    if table in ("correct", "checks"):
        keys = ("relative_difference", "equal_replies", "errors")
        what = next((f"{key} {row[key]}" for key in keys if key in row), "") + ", TF32 is on" * row.get("tf32", False)
        return None if table == "checks" and row["ok"] else f"{'ok' if row['ok'] else 'WRONG'}: {name}: {what}"
    if table == "decode":
        bound = f", {row['fraction_of_bound']:.1%} of the read bound" if "fraction_of_bound" in row else ""
        if "fraction_of_data_sheet" in row:
            bound += f" ({row['fraction_of_data_sheet']:.1%} of the data sheet's)"
        steps = ", ".join(f"{ms:.2f} ms at {n}" for n, ms in zip(row["step_lengths"], row["step_ms"], strict=True))
        captured = ", NOT CAPTURED" if row.get("captured") is False else ""
        return f"{name}: B={row['rows']}, {row['decode_tps']:.0f} tokens/s{bound} ({steps}){captured}"
    if table in ("kernels", "products"):
        return f"{name}{said}" if said else f"{name}: {row['ms_p50']:.4f} ms, {row['gb_per_s']:.0f} GB/s"
    if table == "parts":
        return f"part {name}: {row['seconds']:.0f} s, code {row['rc']}{said}"
    return None
