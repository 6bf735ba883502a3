"""Evaluate a checkpoint: ``python -m pipeline.evaluate --model=... --data=...``.

A model that labels (genre, recognise) is asked through the batch pipeline itself, so what is
measured is what users get. A model that enhances (denoise) is judged on mixtures of clean
recordings with synthesised noise, beside spectral gating.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from pipeline.options import parse_options
from pipeline.program import EXIT_DONE, exit_status
from transforms.errors import UsageError
from transforms.models.checkpoint import DEFAULT_MODEL, head_of
from transforms.models.metrics import Evaluation, evaluate, merge_labels


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.evaluate``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.evaluate",
        description=f"{__doc__}\nThe model must not have been trained on these recordings or "
        "their artists, or the figures flatter it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Options that are not listed here are those of pipeline.main (--windows, "
        "--precision, --workers, ...).",
        allow_abbrev=False,
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="CHECKPOINT")
    parser.add_argument(
        "--data",
        required=True,
        metavar="TABLE|FOLDER",
        help="a table with uri (or path), label (or genre) and optionally artist and fold, or a "
        "folder with one sub-folder per label; for a model that enhances, clean recordings, and "
        "the label is their kind (music, speech, ...)",
    )
    parser.add_argument(
        "--fold", type=int, metavar="FOLD", help="only the recordings of this fold (default: all)"
    )
    parser.add_argument(
        "--seed", type=int, help="of mixtures with noise, for a model that enhances (default: 0)"
    )
    parser.add_argument("--root", metavar="FOLDER", help="for relative uris in the table")
    parser.add_argument(
        "--merge", metavar="A+B", help="treat these labels as one, for example pop+rock"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("evaluation"),
        metavar="FOLDER",
        help="for evaluation.json and pictures (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; returns the exit status."""
    options, label_args = build_parser().parse_known_args(argv)
    return exit_status(lambda: _evaluate(options, label_args))


def _evaluate(options: argparse.Namespace, label_args: Sequence[str]) -> int:
    for arg in label_args:
        if arg.partition("=")[0] in ("--input", "--max_failure_rate"):
            raise UsageError(f"{arg}: not an option of an evaluation; see --help")
    if head_of(options.model) == "enhancement":
        from pipeline.evaluate_enhancer import evaluate_enhancer

        foreign = [*label_args, *([f"--merge={options.merge}"] if options.merge else [])]
        if foreign:
            raise UsageError(f"{foreign[0]}: not an option for a model that enhances")
        _make_folder(options.output)
        evaluate_enhancer(options)
        return EXIT_DONE
    if options.seed is not None:
        raise UsageError(f"--seed={options.seed}: a model that labels is not asked at random")
    _make_folder(options.output)
    evaluation, failed = evaluate_checkpoint(
        options.model, options.data, options.root, label_args, options.merge, options.fold
    )
    _report(evaluation, failed, options)
    return EXIT_DONE


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output={output} cannot be made: {error}") from error


def evaluate_checkpoint(
    model: str,
    data: str,
    root: str | None = None,
    label_args: Sequence[str] = (),
    merge: str | None = None,
    fold: int | None = None,
) -> tuple[Evaluation, int]:
    """Label the tracks with the batch pipeline and compare.

    Parameters
    ----------
    model, data, root : str
        As on the command line.
    label_args : sequence of str
        Further options of pipeline.main.
    merge : str, optional
        Labels to treat as one, joined by "+".
    fold : int, optional
        Only the tracks of this fold.

    Returns
    -------
    Evaluation
        Over the tracks that could be labelled; ``unknown`` counts by its best score.
    failed : int
        Tracks that could not be labelled.

    Raises
    ------
    UsageError
        If the data or the checkpoint cannot be used, or a label is none of the model's.
    """
    from pipeline import job
    from pipeline.labelled import assign_folds, load_labelled

    tracks = load_labelled(data, root)
    if fold is not None and not (tracks := [t for t in assign_folds(tracks) if t.fold == fold]):
        raise UsageError(f"--fold={fold}: --data={data} has no track in it")
    with tempfile.TemporaryDirectory() as folder:
        table = {
            "uri": [track.uri for track in tracks],
            "true_label": [track.label for track in tracks],
            "fold": ["all" if track.fold is None else str(track.fold) for track in tracks],
        }
        pq.write_table(pa.table(table), f"{folder}/tracks.parquet")
        prepared = job.prepare(
            parse_options([f"--input={folder}/tracks.parquet", f"--output={folder}/labels",
                           f"--model={model}", *label_args])
        )  # fmt: skip
        labels = list(prepared.checkpoint.labels)
        if strange := sorted({track.label for track in tracks} - set(labels)):
            raise UsageError(f"--data={data}: {', '.join(strange)}: not among the model's labels")
        job.execute(prepared)
        rows = ds.dataset(f"{folder}/labels/predictions").to_table().to_pylist()
    if not rows:
        raise UsageError(f"--data={data}: none of the {len(tracks)} tracks could be labelled")
    truth = np.array([labels.index(row["true_label"]) for row in rows])
    scores = np.array([row["scores"] for row in rows])
    groups = [row["fold"] for row in rows]
    if merge is not None:
        truth, scores, labels = _merged(truth, scores, labels, merge)
    return evaluate(truth, scores, labels, groups), len(tracks) - len(rows)


def _merged(truth: Any, scores: Any, labels: list[str], merge: str) -> tuple[Any, Any, list[str]]:
    try:
        return merge_labels(truth, scores, labels, merge.split("+"))
    except ValueError as error:
        raise UsageError(f"--merge={merge}: {error}") from error


def _report(evaluation: Evaluation, failed: int, options: argparse.Namespace) -> None:
    from pipeline.plots import plot_confusion

    content: dict[str, Any] = {"model": options.model, "data": options.data, "failed": failed}
    content |= dataclasses.asdict(evaluation)
    (options.output / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    title = f"accuracy {evaluation.accuracy:.2f}, {evaluation.tracks} tracks"
    plot_confusion(evaluation, title, options.output / "confusion.png")
    print(to_text(evaluation))
    print(f"{failed} tracks could not be labelled")
    print(f"results: {options.output}")


def to_text(evaluation: Evaluation) -> str:
    """The figures and the confusion matrix for a terminal."""
    by_group = ", ".join(f"{k}: {v:.3f}" for k, v in evaluation.accuracy_by_group.items())
    lines = [
        f"{evaluation.tracks} tracks",
        f"accuracy           {evaluation.accuracy:.3f}",
        f"macro F1           {evaluation.macro_f1:.3f}",
        f"top-2 accuracy     {evaluation.top2_accuracy:.3f}",
        f"calibration error  {evaluation.calibration_error:.3f}",
        f"by fold            {by_group} (deviation {evaluation.accuracy_spread:.3f})",
        "",
        *confusion_lines(evaluation),
    ]
    return "\n".join(lines)


def confusion_lines(evaluation: Evaluation) -> list[str]:
    """The confusion matrix, truth in rows."""
    largest = max(map(max, evaluation.confusion))
    width = max(*map(len, evaluation.labels), len(str(largest))) + 2
    head = " " * width + "".join(f"{label:>{width}}" for label in evaluation.labels)
    rows = (
        f"{label:<{width}}" + "".join(f"{count:>{width}}" for count in counts)
        for label, counts in zip(evaluation.labels, evaluation.confusion, strict=True)
    )
    return [head, *rows]


if __name__ == "__main__":
    sys.exit(main())
