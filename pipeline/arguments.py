"""The arguments of ``python -m pipeline.main``, with their help.

Imports neither Beam nor torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from pipeline.resources import available_bytes, available_cores, choose_workers
from transforms.models.checkpoint import DEFAULT_MODEL, shipped_models
from transforms.models.front_end import PRESETS

_DESCRIPTION = """\
Label audio files: decode, log-mel, model, one row per track in Parquet.

  python -m pipeline.main --input='music/**/*.flac' --output=labels
  python -m pipeline.main --input=catalog.csv --output=s3://bucket/labels --windows=3

The same command again labels what is new or has changed, and goes on where a run was interrupted.
"""
_EPILOG = """\
Options that are not listed here go to Apache Beam (--flink_master, --s3_endpoint_url, ...).

exit status: 0 done, failed tracks are rows of OUTPUT/failures; 2 a wrong call, nothing was
done; 3 more failures than --max_failure_rate allows; 130 interrupted; 1 anything else
"""


def positive(kind: type) -> Any:
    """An argument type: a finite number over 0."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise ValueError
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError
    return value


_share.__name__ = "share from 0 to 1"


def _path(text: str) -> str:
    if not text.strip():  # an unset shell variable would mean this folder, or the root
        raise ValueError
    return text


_path.__name__ = "path"


def _batch_size(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 4096:
        raise ValueError
    return value


_batch_size.__name__ = "number from 1 to 4096"


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.main``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.main",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_files(parser.add_argument_group("input and output"))
    add_model(parser.add_argument_group("model"))
    add_front_end(
        parser.add_argument_group(
            "front end (each changes the result's front_end_fingerprint; default: the checkpoint's)"
        )
    )
    _add_run(parser.add_argument_group("run"))
    return parser


def _add_files(group: argparse._ArgumentGroup) -> None:
    add_inputs(group, "label")
    group.add_argument(
        "--format",
        choices=("parquet", "json"),
        default="parquet",
        help="json: this run's rows in one JSON Lines file too (default: %(default)s)",
    )
    add_features(group)


def add_features(group: argparse._ArgumentGroup) -> None:
    """Add whether a track's sound is told in numbers."""
    group.add_argument(
        "--features",
        action="store_true",
        help="write what each track sounds like too: loudness, true peak, tempo, key, spectrum, "
        "MFCC, chroma. Decodes every track once more, whole",
    )


def add_inputs(group: argparse._ArgumentGroup, verb: str) -> None:
    """Add what every batch program takes: inputs, and a folder for what it makes of them."""
    group.add_argument(
        "--input",
        action="append",
        required=True,
        type=_path,
        metavar="GLOB|FOLDER|MANIFEST",
        help=f"what to {verb}; may be repeated. A glob in quotes (** is any depth), a folder "
        "(every file in it that may be audio), or a manifest (.csv, .jsonl, .parquet) with a "
        "column uri, an optional track_id, and others that go through to the result",
    )
    group.add_argument(
        "--output", required=True, type=_path, metavar="FOLDER", help="where the results go"
    )
    group.add_argument(
        "--root", metavar="FOLDER", help="for relative uris in manifests (default: the manifest's)"
    )


def add_model(group: argparse._ArgumentGroup) -> None:
    """Add which model labels, and what it computes with."""
    group.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="CHECKPOINT",
        help="folder of a transformers ViT (safetensors) or of a recogniser, or a shipped model: "
        f"{', '.join(shipped_models()) or 'none'} (default: %(default)s)",
    )
    group.add_argument(
        "--front_end",
        choices=sorted(PRESETS),
        help="front end of a checkpoint that brings none; ccmusic is the published 16-genre recipe",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="auto: bfloat16 where the hardware multiplies it; a recogniser's is float32 (default: "
        "%(default)s)",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="a recogniser's is the CPU (default: %(default)s)",
    )
    group.add_argument(
        "--batch_size",
        type=_batch_size,
        metavar="WINDOWS",
        help="windows per call of the model (default: 8 on a CPU, up to 64 by a GPU's memory)",
    )
    group.add_argument("--embeddings", action="store_true", help="write each track's embedding too")
    group.add_argument(
        "--top_k",
        type=positive(int),
        default=5,
        metavar="LABELS",
        help="best labels per track (default: %(default)s)",
    )


def add_front_end(group: argparse._ArgumentGroup) -> None:
    """Add what may differ from the checkpoint's front end; see pipeline.options."""
    group.add_argument(
        "--windows",
        metavar="all|middle|N|whole",
        help="which parts of a track are labelled: all, the middle one, N spread evenly, or whole: "
        "the entire track squeezed into one image (not with a recogniser)",
    )
    group.add_argument("--window_seconds", type=positive(float), metavar="SECONDS")
    group.add_argument(
        "--max_seconds",
        type=positive(float),
        metavar="SECONDS",
        help="decode no further than this (default: a day; with --windows=whole, half an hour)",
    )
    group.add_argument(
        "--hop_seconds",
        type=positive(float),
        metavar="SECONDS",
        help="between window starts (default: the checkpoint's; with --window_seconds, the window)",
    )
    group.add_argument(
        "--denoise",
        type=_path,
        metavar="none|spectral_gate|CHECKPOINT",
        help="spectral_gate lowers what is steady over a window: hiss and hum, but held tones too; "
        "an enhancer's folder or shipped name "
        f"({', '.join(shipped_models(enhancing=True)) or 'none ships'}): that model, on each "
        "window alone",
    )
    group.add_argument(
        "--trim_silence_db",
        type=positive(float),
        metavar="DB",
        help="cut edges of a window that are this much quieter than its peak",
    )
    group.add_argument(
        "--normalize_peak",
        action=argparse.BooleanOptionalAction,
        help="scale each window's peak to full scale",
    )
    group.add_argument(
        "--remove_dc",
        action=argparse.BooleanOptionalAction,
        help="subtract each window's mean",
    )


def _add_run(group: argparse._ArgumentGroup) -> None:
    add_runner(group, "label")
    group.add_argument(
        "--relabel",
        action="store_true",
        help="label everything, whatever earlier runs have labelled",
    )
    add_min_seconds(group)
    add_limits(group)


def add_min_seconds(group: argparse._ArgumentGroup) -> None:
    """Add what is too short to be labelled."""
    group.add_argument(
        "--min_seconds",
        type=positive(float),
        default=0.1,
        metavar="SECONDS",
        help="less sound than this is a failure, too_short (default: %(default)s)",
    )


def add_runner(group: argparse._ArgumentGroup, result: str) -> None:
    """Add where a batch program runs, and when an earlier run's result still holds."""
    group.add_argument(
        "--runner",
        default="DirectRunner",
        help="DirectRunner is this machine; or PrismRunner, FlinkRunner, SparkRunner, "
        "DataflowRunner, ... (default: %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=positive(int),
        default=choose_workers(available_cores(), available_bytes()),
        metavar="PROCESSES",
        help="worker processes of DirectRunner (default: one per core as far as the memory goes, "
        "here %(default)s)",
    )
    group.add_argument(
        "--verify",
        choices=("version", "content"),
        default="version",
        help=f"when an earlier run's {result} still holds. version: the file's size and "
        "modification time are unchanged; content: its bytes are, which are read "
        "(default: %(default)s)",
    )


def add_limits(group: argparse._ArgumentGroup) -> None:
    """Add what one file may cost, how many may fail, and what a person is told."""
    add_decoder_limits(group)
    _add_reports(group)


def add_decoder_limits(group: argparse._ArgumentGroup) -> None:
    """Add what the decoding of one file may cost."""
    group.add_argument(
        "--decode_timeout_seconds",
        type=positive(float),
        default=60.0,
        metavar="SECONDS",
        help="for the decoding of one file, and as many more as it holds sound; beyond that it is "
        "a failure, timeout (default: %(default)s)",
    )
    group.add_argument(
        "--decode_memory_mib",
        type=positive(int),
        default=1024,
        metavar="MIB",
        help="for the decoding of one file (default: %(default)s)",
    )


def _add_reports(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--max_failure_rate",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="exit with status 3 if more of the inputs failed, 0 to 1 (default: %(default)s)",
    )
    group.add_argument(
        "--profile",
        action="store_true",
        help="print at the end where the time went, which the run's JSON always has",
    )
    group.add_argument(
        "--progress",
        choices=("auto", "bar", "lines", "none"),
        default="auto",
        help="auto: a bar on a terminal, else lines (default: %(default)s)",
    )
