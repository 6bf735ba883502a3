"""What a training leaves beside the weights: training.json, two pictures and the model card."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.cross_validation import FoldResult, TrainingSet, out_of_fold_scores
from pipeline.evaluate import to_text
from pipeline.plots import plot_confusion, plot_learning_curves
from transforms.models.metrics import Evaluation, evaluate, merge_labels
from transforms.models.vit_training import Trained

_CARD = """\
---
license: other
{tags}
---
# {name}

{kind} that labels {sound} with one of {count} labels ({labels}){unknown}.
{parameters:,} parameters, {window:g} s of sound at a time.

## What it can and cannot do

- It was trained on {tracks} recordings by {artists} artists or speakers and on nothing else{also}.
  It knows no label but these, and no recording practice but theirs.
{tested}

## Training data

{terms}

## Cross-validation

{figures}

## How it was made

    {command}

Software version {version}. All settings and the learning curves are in `training.json`.
"""


_TESTED = """\
- Its scores are calibrated on artists or speakers that it had not seen (temperature
  {temperature:.2f}).
- It is a demonstration of the pipeline and a baseline: see the confusion matrix for what it mixes
  up."""
_UNTESTED = """\
- Its scores are not calibrated, and what it mixes up was not measured: no artist or speaker was
  held out.
- It is a demonstration of the pipeline and a baseline."""
_UNKNOWN = ",\nor `unknown` where its best score is under {threshold:.2f}"
_TAGS = {
    True: "library_name: transformers\ntags: [audio-classification, music, vit]",
    False: "tags: [audio-classification, streaming]",
}
_KINDS = {
    "vit": "A small ViT",
    "rnn": "A causal recurrent network (tanh)",
    "lstm": "A causal LSTM",
    "gru": "A causal GRU",
    "cnn": "A causal stack of dilated convolutions",
}
_SOUNDS = {"genre": "music", "recognise": "short recordings"}


def _evaluations(
    data: TrainingSet, folds: Sequence[FoldResult], temperature: float, merge: str | None
) -> dict[str, Evaluation]:
    tested = data.folds >= 0
    scores, truth = out_of_fold_scores(data, folds, temperature)[tested], data.truth[tested]
    groups = [str(fold) for fold in data.folds[tested]]
    found = {"all labels": evaluate(truth, scores, data.labels, groups)}
    if merge:
        merged = merge_labels(truth, scores, data.labels, merge.split("+"))
        found[f"{merge} as one"] = evaluate(*merged, groups)
    return found


def report(
    options: argparse.Namespace,
    recipe: Any,
    data: TrainingSet,
    folds: Sequence[FoldResult],
    trained: Trained,
    temperature: float,
    threshold: float,
) -> dict[str, Any]:
    """Everything that training.json states."""
    evaluations = _evaluations(data, folds, temperature, options.merge) if folds else {}
    return {
        "name": options.output.name,
        "command": options.command,
        "version": __version__,
        "task": options.task,
        "cell": options.cell,
        "labels": list(data.labels),
        "tracks": len(data.truth),
        "tested_tracks": int((data.folds >= 0).sum()),
        "artists": len(set(data.artists)),
        "terms": options.terms,
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "temperature": temperature,
        "unknown_threshold": threshold,
        "steps": trained.best_step,
        "cross_validation": {name: dataclasses.asdict(e) for name, e in evaluations.items()},
        "fold_curves": [fold.trained.curve for fold in folds],
        "curve": trained.curve,
    }


def write(folder: Path, content: dict[str, Any], folds: Sequence[FoldResult]) -> None:
    """Write training.json, README.md, the curves and, if cross-validated, the confusion matrix."""
    (folder / "training.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "README.md").write_text(card(content))
    if folds:
        evaluation = Evaluation(**content["cross_validation"]["all labels"])
        plot_confusion(evaluation, "cross-validation", folder / "confusion.png")
    curves = content["fold_curves"] or [content["curve"]]
    plot_learning_curves(curves, folder / "learning_curves.png")


def card(content: dict[str, Any]) -> str:
    """The model card, Markdown."""
    tested = _TESTED if content["cross_validation"] else _UNTESTED
    threshold = content["unknown_threshold"]
    return _CARD.format(
        name=content["name"],
        tags=_TAGS[content["cell"] == "vit"],
        kind=_KINDS[content["cell"]],
        sound=_SOUNDS[content["task"]],
        also=_also(content),
        count=len(content["labels"]),
        labels=", ".join(content["labels"]),
        unknown=_UNKNOWN.format(threshold=threshold) if threshold else "",
        parameters=content["parameters"],
        window=content["recipe"]["front_end"]["window_seconds"],
        tracks=content["tracks"],
        artists=content["artists"],
        tested=tested.format(temperature=content["temperature"]),
        terms=content["terms"],
        figures=_figures(content["cross_validation"]),
        command=content["command"],
        version=content["version"],
    )


def _also(content: dict[str, Any]) -> str:
    """What is said of recordings that no fold was tested on."""
    only_trained = content["tracks"] - content["tested_tracks"]
    if not only_trained or not content["cross_validation"]:
        return ""
    return f" ({only_trained} of them were in no test)"


def _figures(evaluations: dict[str, dict[str, Any]]) -> str:
    if not evaluations:
        return "Not cross-validated."
    parts = []
    for name, fields in evaluations.items():
        evaluation = Evaluation(**fields)
        text = "\n".join(f"    {line}".rstrip() for line in to_text(evaluation).splitlines())
        parts.append(f"With {name}:\n\n{text}")
    return "\n\n".join(parts)
