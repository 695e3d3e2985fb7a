"""The look of every figure: theme, colours, lines with intervals, legends. All else of a figure is in its own file."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

# those that words have too (LINE, FULL, BEST, RANDOM, NOTE) have a contrast of 4.5 and more on white
BAR, BAR_EDGE, LINE, FULL = "#aed4ee", "#5b9cc9", "#b85c00", "#4d4d4d"
# of many series a few stand out, told apart by colour-blind readers as well; the rest is grey, its names darker
BEST, RANDOM, REST, NOTE = "#0068a8", "#98307a", "#b4b4b4", "#666666"
# inches that a figure may be wide: shrunk to a phone's 390 px, text of 10 points still has 8 px
PAGE = 6.4


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
    middle, low, high = (frame[name].to_numpy(float) for name in (y, lo, hi))
    return np.array([middle - low, high - middle]).clip(0, None)


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


def end_labels(ax: Axes, labels: Mapping[str, tuple[float, float, str]], *, size: float = 9) -> None:
    """Name lines at their right ends, instead of a legend; names that would touch are moved apart, with a thin line.

    Args:
        labels: name -> x and y of the line's end, as data, and its colour. Call it when limits and scales are set.
    """
    ax.figure.canvas.draw()
    pixels = ax.figure.dpi / 72
    apart, edge = 1.25 * size * pixels, ax.get_window_extent()
    ends = {name: ax.transData.transform((x, y)) for name, (x, y, _) in labels.items()}
    order = sorted(ends, key=lambda name: ends[name][1])
    # as near to their lines as they can be without touching, and inside the panel where there is room
    steps = apart * np.arange(len(order))
    places = isotonic_regression([ends[name][1] for name in order] - steps).x
    places = np.clip(places, edge.y0, max(edge.y0, edge.y1 - steps[-1])) + steps
    for name, place in zip(order, places, strict=True):
        (x, y, colour), at = labels[name], ax.transAxes.inverted().transform((edge.x1, place))
        where = {"xytext": (1.05, at[1]), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        thin = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)}
        ax.annotate(name, (x, y), color=colour, size=size, arrowprops=thin, **where)


def legend_below(figure: Figure, ax: Axes, size: float = 8) -> None:
    """One legend for all panels in a row under the figure, of what one of them holds."""
    handles, names = ax.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=max(1, len(names)), fontsize=size)


def not_measured(ax: Axes) -> Axes:
    """An empty panel that says why."""
    ax.text(0.5, 0.5, "not measured", ha="center", va="center", color=NOTE, transform=ax.transAxes)
    ax.set(xticks=[], yticks=[])
    return ax
