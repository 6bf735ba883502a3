"""Train a model: ``python -m pipeline.train --task=... --data=... --output=...``.

genre       labels music, with a ViT (the default) or a recurrent or convolutional cell
recognise   labels short recordings (spoken digits, sounds), with a cell
denoise     removes noise, with a cell

The training data come from the stages that label, through Parquet shards that Beam makes on any
runner. A classifier is first cross-validated over folds that share no artist, then trained on all
tracks; an enhancer is judged on one fold that it has not heard. An interrupted training goes on
when the same command is given again, and ends with the same weights.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.program import EXIT_DONE, exit_status
from pipeline.resources import available_cores
from transforms.errors import UsageError
from transforms.models.front_end import PRESETS
from transforms.models.sequence import CELLS

VIT = "vit"
_CELL_OF = {"genre": VIT, "recognise": "lstm", "denoise": "lstm"}


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.train",
        description=(__doc__ or "").replace("``", ""),
        epilog="Options that are not listed here go to Apache Beam, which prepares the data.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--task", choices=sorted(_CELL_OF), default="genre",
                        help="(default: %(default)s)")  # fmt: skip
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_labelling(parser.add_argument_group("training to label (genre, recognise)"))
    _add_denoising(parser.add_argument_group("training to denoise"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        required=True,
        metavar="TABLE|FOLDER",
        help="a table with uri (or path), label (or genre) and, where known, artist and fold; or a "
        "folder with one sub-folder per label (LABEL/ARTIST/track or LABEL/track). For denoise "
        "the recordings are clean, and the label is their kind (music, speech, ...)",
    )
    group.add_argument("--root", metavar="FOLDER", help="for relative uris in tables")
    group.add_argument(
        "--also",
        metavar="TABLE|FOLDER",
        help="further labelled tracks that every fold trains on and none is tested on, for "
        "example synthetic voices",
    )
    group.add_argument(
        "--shards",
        type=Path,
        metavar="FOLDER",
        help="where the prepared data are kept for other trainings; a file system that the "
        "runner's workers share (default: with the output's state, removed at the end)",
    )
    group.add_argument(
        "--runner", default="DirectRunner", help="prepares the data (default: %(default)s)"
    )
    group.add_argument(
        "--terms",
        default="not stated",
        metavar="TEXT",
        help="source and licence of the training tracks, for the model card",
    )
    group.add_argument(
        "--output", required=True, type=Path, metavar="CHECKPOINT", help="a new folder"
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cell",
        choices=(VIT, *CELLS),
        help="vit labels images, for genre only; the others are causal sequence models "
        "(default: vit for genre, else lstm)",
    )
    group.add_argument(
        "--hidden_size", type=int, metavar="N", help="width of a cell (default: the recipe's)"
    )
    group.add_argument("--layers", type=int, metavar="N", help="of a cell (default: the recipe's)")
    group.add_argument(
        "--front_end",
        choices=sorted(PRESETS),
        help="preset of what labels, saved beside the weights (default: spectra for vit, "
        "music_frames for other genre models, speech_frames for recognise)",
    )


def _add_training(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    group.add_argument(
        "--steps", type=int, metavar="N", help="most steps of a vit (default: the recipe's)"
    )
    group.add_argument(
        "--epochs", type=int, metavar="N", help="most epochs of a cell (default: the recipe's)"
    )
    group.add_argument(
        "--threads",
        type=int,
        default=available_cores(),
        metavar="N",
        help="of PyTorch (default: the cores, here %(default)s)",
    )


def _add_labelling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cross_validate",
        action=argparse.BooleanOptionalAction,
        help="without it the model trains for all the steps, and its card has no figures "
        "(default: with it)",
    )
    group.add_argument(
        "--held_out_share",
        type=float,
        metavar="SHARE",
        help="of the artists that a fold trains on, up to 0.5: held out to stop early when their "
        "loss no longer falls (default: 0, which trains for all the steps)",
    )
    group.add_argument(
        "--mask_bands",
        type=int,
        metavar="ROWS",
        help="SpecAugment: widest band of frequency to blank, in mel bands or image rows "
        "(default: the recipe's)",
    )
    group.add_argument(
        "--mask_columns",
        type=int,
        metavar="COLUMNS",
        help="SpecAugment: longest stretch of time to blank, in frames or image columns "
        "(default: the recipe's)",
    )
    group.add_argument(
        "--merge", metavar="A+B", help="report the accuracy with these labels taken as one, too"
    )


def _add_denoising(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--clip_seconds",
        type=float,
        metavar="SECONDS",
        help="length of the mixtures that it learns from, 0.1 to 60 (default: the recipe's)",
    )
    group.add_argument(
        "--steps_per_epoch", type=int, metavar="N", help="(default: the recipe's)"
    )
    group.add_argument(
        "--test_fold",
        type=int,
        metavar="FOLD",
        help="not trained on; the figures on it stand in the card (default: 0)",
    )
    group.add_argument(
        "--test_mixtures",
        type=int,
        metavar="N",
        help="of each kind of recording, noise and level, for these figures (default: 6)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status, 0 or 2."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options, beam_args = build_parser().parse_known_args(arguments)
    options.beam_args = beam_args
    options.command = shlex.join(["python", "-m", "pipeline.train", *arguments])
    return exit_status(lambda: _train(options))


def _train(options: argparse.Namespace) -> int:
    options.cell = options.cell or _CELL_OF[options.task]
    if options.cell == VIT and options.task != "genre":
        raise UsageError(f"--cell=vit cannot --task={options.task}; one of {', '.join(CELLS)} can")
    _check_foreign(options)
    _check_ranges(options)
    if options.task == "denoise":
        from pipeline.train_enhancer import train_enhancer

        train_enhancer(options)
    else:
        from pipeline.train_classifier import train_classifier

        train_classifier(options)
    print(f"checkpoint: {options.output}")
    return EXIT_DONE


def _check_foreign(options: argparse.Namespace) -> None:
    """Refuse what would be ignored, then set the defaults of what is left."""
    classifiers = ("front_end", "also", "cross_validate", "merge", "mask_bands", "mask_columns")
    denoise = ("clip_seconds", "steps_per_epoch", "test_fold", "test_mixtures")
    cells = ("epochs", "hidden_size", "layers")
    of_task = classifiers if options.task == "denoise" else denoise
    of_cell = cells if options.cell == VIT else ("steps",)
    for what, names in (("task", of_task), ("cell", of_cell)):
        for name in names:
            if getattr(options, name) is not None:
                raise UsageError(
                    f"--{name} is no setting of --{what}={getattr(options, what)}; leave it away"
                )
    _check_unvalidated(options)
    defaults = {"held_out_share": 0.0, "cross_validate": True, "test_fold": 0}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def _check_unvalidated(options: argparse.Namespace) -> None:
    """Refuse what says how a cross-validation is done where there is none."""
    for name in ("held_out_share", "merge"):
        if options.cross_validate is False and getattr(options, name) is not None:
            raise UsageError(f"--{name} is of no use with --no-cross_validate; leave one away")


def _check_ranges(options: argparse.Namespace) -> None:
    if not 0 <= options.held_out_share <= 0.5:
        raise UsageError(f"--held_out_share={options.held_out_share}: must be from 0 to 0.5")
    if options.clip_seconds is not None and not 0.1 <= options.clip_seconds <= 60:
        raise UsageError(f"--clip_seconds={options.clip_seconds:g}: must be from 0.1 to 60")
    for name, most in {"hidden_size": 4096, "layers": 64}.items():
        value = getattr(options, name)
        if value is not None and not 1 <= value <= most:
            raise UsageError(f"--{name}={value}: must be from 1 to {most}")
    smallest = {"steps": 1, "epochs": 1, "threads": 1, "seed": 0, "mask_bands": 0,
                "mask_columns": 0, "test_fold": 0, "steps_per_epoch": 1,
                "test_mixtures": 1}  # fmt: skip
    for name, least in smallest.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: must be {least} or more")


if __name__ == "__main__":
    sys.exit(main())
