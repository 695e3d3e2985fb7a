"""The look of every figure: theme, colours, lines with intervals, legends. All else of a figure is in its own file."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BAR, BAR_EDGE, LINE, FULL = "#aed4ee", "#5b9cc9", "#e8821e", "#4d4d4d"


def set_theme() -> None:
    """The look of every figure of the package."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 150, "svg.hashsalt": "kvrepro", "legend.frameon": False})


def interval_lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    hue: str,
    *,
    ax: Axes,
    colours: Mapping[str, str],
    labels: Mapping[str, str] | None = None,
    apart: float = 0.0,
) -> None:
    """One line per value of `hue` in the frame's order, the interval (columns lo, hi) of every point as a bar.

    Args:
        colours, labels: of the values of `hue`; what has none takes the next colour, and its own name.
        apart: distance along x from line to line, or the intervals of equal places would lie on each other.
    """
    names = list(dict.fromkeys(frame[hue]))
    for number, name in enumerate(names):
        part = frame[frame[hue] == name].sort_values(x)
        shift = apart * (number - (len(names) - 1) / 2)
        style = {"color": colours.get(name), "label": (labels or {}).get(name, name)}
        ax.errorbar(
            part[x] + shift, part[y], spread(part, y), marker="o", markersize=4, capsize=2, elinewidth=0.9, **style
        )


def spread(frame: pd.DataFrame, y: str, lo: str = "lo", hi: str = "hi") -> np.ndarray:
    """Distances of an interval's ends from its estimate as `errorbar` takes them, `[2, rows]`."""
    # rounded tables may hold an end a little inside its estimate
    return np.clip([frame[y] - frame[lo], frame[hi] - frame[y]], 0, None)


def finish(ax: Axes, legend: str | None = None, **settings) -> Axes:
    """Labels and limits (`settings`, as of `Axes.set`), the legend, and no box around; returns the Axes.

    Args:
        legend: a place inside the Axes, or `beside`: to their right, where it covers nothing.
    """
    ax.set(**settings)
    if legend is not None:
        place = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if legend == "beside" else {"loc": legend}
        ax.legend(**place)
    sns.despine(ax=ax)
    return ax


def legend_below(figure: Figure, ax: Axes, size: float = 8) -> None:
    """One legend for all panels in a row under the figure, of what one of them holds."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)), fontsize=size)


def not_measured(ax: Axes) -> Axes:
    """An empty panel that says why."""
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", color="0.5", transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
    return ax
