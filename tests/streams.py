"""Streams for tests: sound, blocks of it in any cut, and what hears them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tests.checkpoints import LABELS, random_network, recogniser_front_end
from transforms.models.front_end import FrontEnd
from transforms.models.sequence import Cell, SequenceModel, SequenceSettings
from transforms.provenance import Provenance
from transforms.streaming.blocks import Block
from transforms.streaming.recogniser import StreamRecogniser

PROVENANCE = Provenance(
    model_fingerprint="m" * 16, front_end_fingerprint="f" * 16, pipeline_version="1", run_id="run"
)
START_US = 1_700_000_000_123_457
"""No whole millisecond, on purpose."""


def sound(seconds: float, rate: int, seed: int = 0) -> Any:
    """A tone that glides through noise, with a second of silence in the middle, float32."""
    rng = np.random.default_rng(seed)
    count = round(seconds * rate)
    t = np.arange(count) / rate
    tone = 0.4 * np.sin(2 * np.pi * (300 * t + 200 * t**2))
    made = tone + rng.normal(scale=0.05, size=count) * (1 + np.sin(3 * t))
    made[count // 2 : count // 2 + count // 5] = 0
    return made.astype(np.float32)


def front_end(**changes: Any) -> FrontEnd:
    """A causal one, as recognisers have."""
    return recogniser_front_end(**{"remove_dc": False, "resampler": "VHQ", **changes})


def make_model(
    cell: Cell = "gru", half_life_frames: float | None = None, seed: int = 0, inputs: int = 20
) -> SequenceModel:
    """A recogniser whose layers do not amplify rounding."""
    settings = SequenceSettings(
        head="recognition", cell=cell, inputs=inputs, outputs=len(LABELS), hidden_size=33, layers=2
    )
    return SequenceModel(random_network(settings, seed, gain=0.6), half_life_frames)


def make_recogniser(cell: Cell = "gru", half_life_frames: float | None = None) -> StreamRecogniser:
    """Of random weights."""
    return StreamRecogniser(make_model(cell, half_life_frames), front_end())


def pieces(samples: Any, cuts: Iterable[int]) -> list[Any]:
    """Samples cut at these places; some pieces may be empty."""
    return np.split(samples, sorted(cuts))


def block(stream_id: str = "radio", sequence: int = 0, **changes: Any) -> Block:
    """A tenth of a second of noise of its own, in its place in time."""
    rate = changes.get("sample_rate_hz", 8_000)
    frames = changes.pop("frames", rate // 10)
    session = changes.get("session", 0)
    rng = np.random.default_rng([sequence % 1_000, session % 1_000, len(stream_id)])
    pcm = rng.integers(-9_000, 9_000, frames * changes.get("channels", 1))
    fields: dict[str, Any] = {
        "event_time_us": START_US + 1_000_000 * session + 100_000 * sequence,
        "sample_rate_hz": rate, "channels": 1, "payload": pcm.astype("<i2").tobytes(),
    }  # fmt: skip
    return Block(stream_id=stream_id, sequence=sequence, **{**fields, **changes})


def as_blocks(
    samples: Sequence[Any],
    rate: int,
    *,
    stream_id: str = "radio",
    start_us: int = START_US,
    last: bool = True,
    **changes: Any,
) -> Iterator[Block]:
    """Pieces of sound as blocks without a gap."""  # fmt: skip
    heard = 0
    for sequence, piece in enumerate(samples):
        yield Block(
            stream_id=stream_id,
            sequence=sequence,
            event_time_us=start_us + round(1e6 * heard / rate),
            encoding="pcm_f32le",
            sample_rate_hz=rate,
            channels=1,
            last=last and sequence == len(samples) - 1,
            payload=np.asarray(piece, "<f4").tobytes(),
            **changes,
        )
        heard += len(piece)


COLLECTED: dict[str, list[Any]] = {}
"""What :func:`collect` was given, by tag. By name: what is pickled with a graph is a copy."""


def collect(element: Any, tag: str) -> None:
    """Keep an element of a graph that runs in this process."""
    COLLECTED.setdefault(tag, []).append(element)


def plain(row: Any) -> dict[str, Any]:
    """A row without the clock that stamped it."""
    fields = dataclasses.asdict(row)
    return {
        name: value for name, value in fields.items() if name not in ("labelled_at", "failed_at")
    }
