"""Stand-ins for decoding and for the model, so that what is left of a run is its framework.

Both have the interfaces of what they stand for, and travel to worker processes by reference.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np

from transforms.audio.sandbox import DecoderLimits
from transforms.decode import COUNTS, KNOWN, STAGE, WINDOWS
from transforms.inference import ViTModelHandler
from transforms.models.front_end import FrontEnd
from transforms.models.interface import IntArray, ModelOutput
from transforms.records import AudioWindow, FloatArray, Track, TrackFacts
from transforms.stage_metrics import FAILURES, StageMeter
from transforms.storage.known import KnownRows

_SOUNDS = 16  # different windows of noise, and different answers of the model


def noise_window(track: Track, noise: FloatArray, rate_hz: int) -> AudioWindow:
    """The only window of a track, with facts that hold for it.

    Parameters
    ----------
    track : Track
    noise : float32, shape (frames, 1)
    rate_hz : int
    """
    seconds = len(noise) / rate_hz
    facts = TrackFacts(
        content_sha256=hashlib.sha256(track.uri.encode()).hexdigest(),
        size_bytes=track.size_bytes or 0,
        duration_s=seconds,
        sample_rate_hz=rate_hz,
        channels=1,
        container="WAV",
        codec="PCM_16",
        decoder="soundfile",
        window_count=1,
    )
    return AudioWindow(track, 0, 0.0, seconds, rate_hz, 0, noise, facts)


class _NoiseDoFn(beam.DoFn):  # type: ignore[misc]
    _noises: list[FloatArray]  # from setup on

    def __init__(self, front_end: FrontEnd) -> None:
        self._front_end = front_end
        self._meter = StageMeter(STAGE)

    def setup(self) -> None:
        generator = np.random.default_rng(0)
        shape = (_SOUNDS, self._front_end.window_samples, 1)
        self._noises = list(generator.normal(0, 0.1, shape).astype(np.float32))

    def process(self, track: Track) -> Iterator[AudioWindow]:
        yield from self._meter.count(lambda: [self._window(track)])

    def _window(self, track: Track) -> AudioWindow:
        noise = self._noises[zlib.crc32(track.uri.encode()) % _SOUNDS]
        return noise_window(track, noise, self._front_end.sample_rate_hz)


@dataclass
class StandInDecode(beam.PTransform):  # type: ignore[misc]
    """In place of ``transforms.decode.Decode``: one window of noise per track, no file opened.

    Nothing fails, nothing is known and nothing has features; all but the front end is not asked.
    """

    front_end: FrontEnd
    min_seconds: float
    limits: DecoderLimits
    known: KnownRows | None
    features: bool = False

    def expand(self, tracks: beam.PCollection) -> beam.pvalue.DoOutputsTuple:
        return tracks | beam.ParDo(_NoiseDoFn(self.front_end)).with_outputs(
            FAILURES, KNOWN, COUNTS, main=WINDOWS
        )


class StubModel:
    """In place of ``transforms.models.vit.ViT``: answers out of a table, by a hash of the image.

    Parameters
    ----------
    labels : int
        Log-probabilities in an answer.
    embedding_size : int
    """

    def __init__(self, labels: int, embedding_size: int) -> None:
        logits = np.random.default_rng(0).normal(0, 2, (_SOUNDS, labels))
        log_sums = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        self._answers: FloatArray = (logits - log_sums).astype(np.float32)
        self._embedding_size = embedding_size

    def predict(
        self, images: FloatArray, content_frames: IntArray | None = None
    ) -> ModelOutput:
        """The answers to float32 images of shape (images, height, width)."""
        rows = [zlib.crc32(image[0].tobytes()) % _SOUNDS for image in images]
        embeddings = np.zeros((len(images), self._embedding_size), np.float32)
        return ModelOutput(self._answers[rows], embeddings)


class StubHandler(ViTModelHandler):
    """In place of ``transforms.inference.ViTModelHandler``: all of it but the model."""

    def load_model(self) -> StubModel:  # type: ignore[override]
        return StubModel(len(self._checkpoint.labels), self._checkpoint.embedding_size)
