"""A picture of streams against the whole recording (matplotlib, extra [train])."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import UsageError
from transforms.records import FloatArray
from transforms.streaming.comparing import TOLERANCE, Comparison

_COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito's, told apart by everyone
_MARKERS = ("o", "s", "^")  # and in print without colours
_LIMIT, _CURVE = "#CC79A7", "#332288"
_WIDTH, _ROW_HEIGHT, _DPI = 10.0, 2.4, 120  # inches: 1,200 pixels wide
_POINTS, _DOTS = 2_000, 60  # of a line; of what lies over it
_LEAST = 1e-10  # stands for no difference: a logarithm has none


def check_picture(path: Path) -> None:
    """Raise UsageError unless a picture can be drawn there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"pictures need matplotlib ({error}): pip install 'matplotlib>=3.9,<4', or this "
            "project with its extra [train]"
        ) from error
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: the picture is a PNG, name a file that ends in .png")
    if not path.parent.is_dir() or path.is_dir():
        raise UsageError(f"{path}: cannot be written; name a file in a folder that is there")


def plot_comparisons(
    found: Sequence[Comparison], labels: Sequence[str], title: str, path: Path
) -> None:
    """Two panels for each: values whole and streamed, and how far they are apart.

    Parameters
    ----------
    found : sequence of Comparison
    labels : sequence of str
        Of the values; what has another number of them are samples.
    title : str
    path : Path
    """
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure that it made

    figure = Figure(figsize=(_WIDTH, _ROW_HEIGHT * len(found) + 0.6), layout="constrained")
    figure.suptitle(f"{title}: whole (lines) and streamed (marks)")
    panels = figure.subplots(
        2 * len(found), squeeze=False, sharex=True, height_ratios=[3, 2] * len(found)
    )[:, 0]
    for above, below, one in zip(panels[::2], panels[1::2], found, strict=True):
        if one.whole.shape[1] == len(labels):
            _draw_scores(above, one, labels)
        else:
            _draw_sound(above, one)
        _draw_differences(below, one)
    panels[-1].set_xlabel("time, s")
    figure.savefig(path, dpi=_DPI)


def best_labels(scores: FloatArray, most: int = len(_COLOURS)) -> list[int]:
    """The labels with the highest mean score, the best first; scores of shape (frames, labels)."""
    return [int(label) for label in np.argsort(-scores.mean(axis=0), kind="stable")[:most]]


def largest_of_parts(values: FloatArray, most: int = _POINTS) -> tuple[FloatArray, int]:
    """The largest of each part of (steps,), so that none is lost, and the steps of a part.

    NaN where one of a part is.
    """
    size = max(1, math.ceil(len(values) / most))
    return np.maximum.reduceat(values, np.arange(0, len(values), size)), size


def _draw_scores(axes: Any, one: Comparison, labels: Sequence[str]) -> None:
    line = slice(None, None, max(1, len(one.whole) // _POINTS))
    seconds = np.arange(len(one.whole)) * one.step_seconds
    best = best_labels(one.whole)
    for order, (label, colour) in enumerate(zip(best, _COLOURS, strict=False)):
        axes.plot(seconds[line], one.whole[line, label], color=colour, linewidth=1.2,
                  label=labels[label])  # fmt: skip
        _draw_dots(axes, one.streamed[:, label], one.step_seconds, order)
    axes.set(title=f"{one.name}: running scores", ylabel="probability", ylim=(-0.05, 1.05))
    axes.legend(title="label", loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize="small")


def _draw_sound(axes: Any, one: Comparison) -> None:
    whole, size = largest_of_parts(np.abs(one.whole[:, 0]))
    part_s = size * one.step_seconds
    axes.plot(np.arange(len(whole)) * part_s, whole, color=_COLOURS[0], linewidth=0.8)
    _draw_dots(axes, largest_of_parts(np.abs(one.streamed[:, 0]))[0], part_s, 0)
    axes.set(title=f"{one.name}: peaks of the sound", ylabel="full scale is 1")


def _draw_dots(axes: Any, values: FloatArray, step_seconds: float, order: int) -> None:
    every = max(1, len(values) // _DOTS)
    steps = np.arange(order * every // len(_COLOURS), len(values), every)
    axes.plot(steps * step_seconds, values[steps], linestyle="none", marker=_MARKERS[order],
              markersize=4, markerfacecolor="none", color=_COLOURS[order])  # fmt: skip


def _draw_differences(axes: Any, one: Comparison) -> None:
    largest, size = largest_of_parts(one.differences)
    seconds = np.arange(len(largest)) * size * one.step_seconds
    finite = largest[np.isfinite(largest)].max(initial=0.0)
    axes.set(ylabel="|difference|", yscale="log", ylim=(_LEAST, max(10 * TOLERANCE, 3 * finite)))
    axes.plot(seconds, np.maximum(largest, _LEAST), color=_CURVE, linewidth=0.8)
    axes.axhline(TOLERANCE, color=_LIMIT, linestyle="--", linewidth=1.5)
    axes.annotate(f"{TOLERANCE:g}", (1.005, TOLERANCE), xycoords=("axes fraction", "data"),
                  color=_LIMIT, va="center", fontsize="small")  # fmt: skip
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
