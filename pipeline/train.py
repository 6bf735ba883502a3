"""Train a small ViT on labelled tracks: ``python -m pipeline.train --data=... --output=...``.

First it cross-validates over folds that share no artist, then it trains the model that is
written on all tracks, for as many steps as the folds needed. The windows come from the stages
that label (pipeline.prepare); docs/models.md says what was tried.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.program import EXIT_DONE, exit_status, refuse_existing
from pipeline.resources import available_cores
from transforms.errors import UsageError
from transforms.models.front_end import PRESETS, FrontEnd


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="TABLE|FOLDER",
        help="a table with uri (or path), label (or genre) and, where known, artist and fold; or a "
        "folder with one sub-folder per label (LABEL/ARTIST/track or LABEL/track)",
    )
    parser.add_argument("--root", metavar="FOLDER", help="for relative uris in the table")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="CHECKPOINT", help="a new folder"
    )
    parser.add_argument(
        "--front_end",
        choices=sorted(PRESETS),
        default="spectra",
        help="preset, saved beside the weights (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="most training steps (default: the recipe's)"
    )
    parser.add_argument(
        "--held_out_share",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="of the artists that a fold trains on, up to 0.5: held out to stop early when their "
        "loss no longer falls; 0 trains for all the steps (default: %(default)s)",
    )
    parser.add_argument(
        "--mask_bands",
        type=int,
        default=0,
        metavar="ROWS",
        help="SpecAugment: widest band of frequency to blank, in image rows (default: %(default)s)",
    )
    parser.add_argument(
        "--mask_columns",
        type=int,
        default=0,
        metavar="COLUMNS",
        help="SpecAugment: longest stretch of time to blank, in image columns "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cross_validate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="without it the model trains for all the steps, and its card has no figures",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        metavar="N",
        help="of PyTorch (default: the cores, here %(default)s)",
    )
    parser.add_argument(
        "--merge",
        metavar="A+B",
        help="report the accuracy with these labels taken as one, too",
    )
    parser.add_argument(
        "--terms",
        default="not stated",
        metavar="TEXT",
        help="source and licence of the training tracks, for the model card",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status, 0 or 2."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = build_parser().parse_args(arguments)
    options.command = shlex.join(["python", "-m", "pipeline.train", *arguments])
    return exit_status(lambda: _train(options))


def _train(options: argparse.Namespace) -> int:
    refuse_existing(options.output)
    train(options)
    print(f"checkpoint: {options.output}")
    return EXIT_DONE


def train(options: argparse.Namespace) -> None:
    """Prepare, cross-validate, train on everything, write the checkpoint and its card."""
    import torch

    from pipeline import model_card
    from pipeline.fit import Recipe, calibrate, fit, load_training_set
    from pipeline.labelled import assign_folds, load_labelled
    from transforms.augment import Augmentation
    from transforms.models.vit_training import save_checkpoint, sharpen

    front_end = PRESETS[options.front_end]
    _check_ranges(options, front_end)
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        front_end=front_end,
        seed=options.seed,
        held_out_share=options.held_out_share,
        augmentation=Augmentation(
            mask_bands=options.mask_bands, mask_columns=options.mask_columns
        ),
    )
    if options.steps is not None:
        settings = dataclasses.replace(recipe.settings, steps=options.steps)
        recipe = dataclasses.replace(recipe, settings=settings)
    tracks = load_labelled(options.data, options.root)
    if options.cross_validate:
        tracks = assign_folds(tracks)
    labels = {track.label for track in tracks}
    if options.merge and not set(options.merge.split("+")) <= labels:
        raise UsageError(f"--merge={options.merge}: the labels are {', '.join(sorted(labels))}")
    say(f"{len(tracks)} tracks of {len({t.artist for t in tracks})} artists: making windows")
    data = load_training_set(tracks, recipe)
    folds = _cross_validate(data, recipe) if options.cross_validate else []
    temperature, threshold = calibrate(data, folds) if folds else (1.0, 0.0)
    steps = int(np.median([fold.trained.best_step for fold in folds])) if folds else None
    say(f"training on all {len(tracks)} tracks")
    trained = fit(data, np.arange(len(tracks)), recipe, stop_after=steps)
    sharpen(trained.model, temperature)
    save_checkpoint(trained.model, options.output, recipe.front_end, threshold)
    report = model_card.report(options, recipe, data, folds, trained, temperature, threshold)
    model_card.write(options.output, report, folds)


def _check_ranges(options: argparse.Namespace, front_end: FrontEnd) -> None:
    limits = {
        "held_out_share": 0.5,
        "mask_bands": front_end.image_height - 1,
        "mask_columns": front_end.image_width - 1,
    }
    for name, largest in limits.items():
        if not 0 <= getattr(options, name) <= largest:
            raise UsageError(f"--{name}={getattr(options, name)}: must be from 0 to {largest}")
    for name, smallest in {"steps": 1, "threads": 1, "seed": 0}.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise UsageError(f"--{name}={value}: must be {smallest} or more")


def _cross_validate(data: Any, recipe: Any) -> list[Any]:
    from pipeline.fit import cross_validate, out_of_fold_scores

    folds = []
    for result in cross_validate(data, recipe):
        folds.append(result)
        predicted = out_of_fold_scores(data, [result])[result.tracks].argmax(axis=1)
        accuracy = (predicted == data.truth[result.tracks]).mean()
        say(f"fold {result.fold}: accuracy {accuracy:.3f}, stopped at {result.trained.best_step}")
    return folds


def say(text: str) -> None:
    """A line of progress, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
