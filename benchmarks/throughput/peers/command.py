"""The command line that all peers share, and what they write.

The output is JSON, a list of ``{"path": str, "label": str, "scores": [float, ...]}``: the best
label, and the probabilities of all labels in the order of the model's logits.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]
Scored: TypeAlias = tuple[str, Sequence[float]]  # a path and its scores
LabelTracks: TypeAlias = Callable[[list[str], str, str], Iterable[Scored]]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def to_rows(scored: Iterable[Scored], labels: dict[int, str]) -> list[Row]:
    """Name each track's best label.

    Parameters
    ----------
    scored : iterable of (path, scores)
        Probabilities, shape (labels,).
    labels : dict
        Name of each position, transformers' ``id2label``.
    """
    rows = []
    for path, given in scored:
        scores = [float(score) for score in given]
        best = max(range(len(scores)), key=scores.__getitem__)
        rows.append({"path": path, "label": labels[best], "scores": scores})
    return rows


def model_labels(model: str) -> dict[int, str]:
    """``id2label`` of a checkpoint folder."""
    config = json.loads(Path(model, "config.json").read_text())
    return {int(position): name for position, name in config["id2label"].items()}


def main(label_tracks: LabelTracks, precisions: Sequence[str] = ("float32",)) -> None:
    """Run a peer: ``label_tracks(paths, model, precision)`` gives paths and scores.

    Parameters
    ----------
    label_tracks : callable
    precisions : sequence of str
        The first one is the default.
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--tracks-list", type=Path, required=True, help="a path in each line")
    parser.add_argument("--model", required=True, metavar="FOLDER", help="of a transformers ViT")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON")
    parser.add_argument("--precision", choices=precisions, default=precisions[0])
    options = parser.parse_args()
    paths = options.tracks_list.read_text().splitlines()
    rows = to_rows(label_tracks(paths, options.model, options.precision),
                   model_labels(options.model))  # fmt: skip
    options.output.write_text(json.dumps(rows))
