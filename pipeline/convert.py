"""Convert a torchvision ViT to a checkpoint: ``python -m pipeline.convert --input=...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.program import EXIT_DONE, exit_status, refuse_existing
from transforms.models.convert import convert
from transforms.models.front_end import CCMUSIC_LABELS, PRESETS


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.convert``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.convert",
        description="Convert the state dict of a torchvision VisionTransformer (vit_b_16, ...) to "
        "a transformers folder with safetensors and a front end. The file is read with "
        "weights_only, so nothing in it can run.",
        allow_abbrev=False,
    )
    parser.add_argument("--input", required=True, type=Path, metavar="FILE.pth")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="must be new")
    parser.add_argument(
        "--labels",
        default=",".join(CCMUSIC_LABELS),
        metavar="A,B,...",
        help="in the order of the logits (default: the 16 genres of the published recipe)",
    )
    parser.add_argument(
        "--front_end",
        choices=sorted(PRESETS),
        required=True,
        help="what the model was trained on; saved beside the weights",
    )
    parser.add_argument(
        "--windows",
        metavar="all|middle|N|whole",
        help="which parts of a track are labelled (default: the preset's)",
    )
    parser.add_argument(
        "--unknown_threshold",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="best scores under this are labelled unknown, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--heads",
        type=int,
        metavar="N",
        help="attention heads, which the file does not show (default: heads of 64, as every "
        "published ViT has)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; returns the exit status, 0 or 2."""
    options = build_parser().parse_args(argv)
    return exit_status(lambda: _convert(options))


def _convert(options: argparse.Namespace) -> int:
    refuse_existing(options.output)
    convert(
        options.input,
        options.output,
        labels=options.labels.split(","),
        front_end=PRESETS[options.front_end].changed(windows=options.windows),
        unknown_threshold=options.unknown_threshold,
        heads=options.heads,
    )
    print(f"checkpoint: {options.output}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
