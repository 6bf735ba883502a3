"""The command line of ``python -m pipeline.main`` as one frozen configuration.

Imports neither Beam nor torch, so that ``--help`` and a wrong call answer at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.arguments import build_parser


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """What a run of the labelling job was asked to do."""

    inputs: tuple[str, ...]
    output: str
    root: str | None
    format: str  # parquet | json (Parquet, and JSON Lines beside it)
    model: str
    front_end_preset: str | None
    front_end_changes: dict[str, Any]
    precision: str
    device: str
    batch_size: int | None  # None: by the device
    embeddings: bool
    features: bool
    top_k: int
    verify: str  # version | content
    relabel: bool
    min_seconds: float
    decode_timeout_seconds: float
    decode_memory_mib: int
    max_failure_rate: float
    runner: str
    workers: int
    profile: bool
    progress: str  # auto | bar | lines | none
    beam_args: tuple[str, ...] = ()


def parse_options(argv: Sequence[str] | None = None) -> LabelConfig:
    """Parse a command line; argparse ends the process with status 2 if it is wrong."""
    options, beam_args = build_parser().parse_known_args(argv)
    return LabelConfig(
        inputs=tuple(options.input),
        output=options.output.rstrip("/") or "/",
        root=options.root,
        format=options.format,
        model=options.model,
        front_end_preset=options.front_end,
        front_end_changes=front_end_changes(options),
        precision=options.precision,
        device=options.device,
        batch_size=options.batch_size,
        embeddings=options.embeddings,
        features=options.features,
        top_k=options.top_k,
        verify=options.verify,
        relabel=options.relabel,
        min_seconds=options.min_seconds,
        decode_timeout_seconds=options.decode_timeout_seconds,
        decode_memory_mib=options.decode_memory_mib,
        max_failure_rate=options.max_failure_rate,
        runner=options.runner,
        workers=options.workers,
        profile=options.profile,
        progress=options.progress,
        beam_args=tuple(beam_args),
    )


def front_end_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Fields of the front end that were given, of ``add_front_end``'s options."""
    names = ("windows", "window_seconds", "hop_seconds", "denoise", "trim_silence_db",
             "max_seconds", "normalize_peak", "remove_dc")  # fmt: skip
    given = {name: getattr(options, name) for name in names}
    changes = {name: value for name, value in given.items() if value is not None}
    if "window_seconds" in changes:
        changes.setdefault("hop_seconds", changes["window_seconds"])
    return changes
