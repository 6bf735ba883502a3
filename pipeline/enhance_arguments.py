"""The command line of ``python -m pipeline.enhance``: its help, and a frozen configuration.

Imports neither Beam nor torch, so that ``--help`` and a wrong call answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.arguments import add_inputs, add_limits, add_runner, positive
from transforms.models.enhancer import DEFAULT_ENHANCER

_DESCRIPTION = """\
Enhance audio files: remove DC offset and noise, write each anew as FLAC or WAV.

  python -m pipeline.enhance --input='music/**/*.mp3' --output=enhanced
  python -m pipeline.enhance --input=catalog.csv --output=s3://bucket/enhanced --bits=16

Sample rate, channels and length stay; tags and pictures are not carried over. No input is changed.
The same command again enhances what is new or changed, and goes on where a run was interrupted.
"""
_EPILOG = """\
Options that are not listed here go to Apache Beam (--flink_master, --s3_endpoint_url, ...).

results: OUTPUT/enhanced_audio, the files; OUTPUT/enhanced, one row per file in Parquet;
OUTPUT/failures; OUTPUT/runs

exit status: 0 done, failed tracks are rows of OUTPUT/failures; 2 a wrong call, nothing was
done; 3 more failures than --max_failure_rate allows; 130 interrupted; 1 anything else
"""


@dataclass(frozen=True, kw_only=True)
class EnhanceConfig:
    """What a run of the enhancing job was asked to do."""

    inputs: tuple[str, ...]
    output: str
    root: str | None
    method: str
    model: str
    reconstruct: str
    format: str  # flac | wav
    bits: int
    max_seconds: float
    verify: str  # version | content
    redo: bool
    decode_timeout_seconds: float
    decode_memory_mib: int
    max_failure_rate: float
    runner: str
    workers: int
    profile: bool
    progress: str  # auto | bar | lines | none
    beam_args: tuple[str, ...] = ()


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``python -m pipeline.enhance``."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.enhance",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_inputs(parser.add_argument_group("input and output"), "enhance")
    _add_enhancement(
        parser.add_argument_group(
            "enhancement (each changes the result's front_end_fingerprint or model_fingerprint)"
        )
    )
    group = parser.add_argument_group("run")
    add_runner(group, "enhancement")
    group.add_argument(
        "--redo", action="store_true", help="enhance everything, whatever earlier runs have done"
    )
    add_limits(group)
    return parser


def _add_enhancement(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--method",
        choices=("model", "spectral_gate", "none"),
        default="model",
        help="model: a mask that a network makes; spectral_gate: lowers what is steady over half "
        "a minute, hiss and hum, but held tones too; none: only the DC offset goes "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--model",
        default=DEFAULT_ENHANCER,
        metavar="CHECKPOINT",
        help="for --method=model: a shipped enhancer, or the folder of one (default: %(default)s)",
    )
    group.add_argument(
        "--reconstruct",
        choices=("phase", "griffin_lim"),
        default="phase",
        help="phase: keeps the recording's own phase; griffin_lim: throws all away but the log-mel "
        "spectrogram and makes sound of that (librosa): lossy, to hear what a model sees; slow "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--format",
        choices=("flac", "wav"),
        default="flac",
        help="flac holds up to 8 channels and 655,350 Hz, others fail; wav holds all, as RF64 "
        "beyond 4 GiB (default: %(default)s)",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(16, 24),
        default=24,
        help="of a sample; 16 takes less room (default: %(default)s)",
    )
    group.add_argument(
        "--max_seconds",
        type=positive(float),
        default=86_400.0,
        metavar="SECONDS",
        help="decode no further than this; what is cut has the warning too_long (default: a day)",
    )


def parse_options(argv: Sequence[str] | None = None) -> EnhanceConfig:
    """Parse a command line; argparse ends the process with status 2 if it is wrong."""
    options, beam_args = build_parser().parse_known_args(argv)
    return EnhanceConfig(
        inputs=tuple(options.input),
        output=options.output.rstrip("/") or "/",
        root=options.root,
        method=options.method,
        model=options.model,
        reconstruct=options.reconstruct,
        format=options.format,
        bits=options.bits,
        max_seconds=options.max_seconds,
        verify=options.verify,
        redo=options.redo,
        decode_timeout_seconds=options.decode_timeout_seconds,
        decode_memory_mib=options.decode_memory_mib,
        max_failure_rate=options.max_failure_rate,
        runner=options.runner,
        workers=options.workers,
        profile=options.profile,
        progress=options.progress,
        beam_args=tuple(beam_args),
    )
