"""A service with canned answers, so that the page is tested without models."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipeline.serving.answers import (
    Enhanced,
    Heard,
    Labelled,
    Limits,
    Problem,
    Progress,
    RefusedError,
    ServedModel,
    Step,
    Upload,
    untold,
)
from transforms.errors import Reason, StageError
from transforms.records import FloatArray

LABELS = ("blues", "classical", "folk & country", "jazz", "pop", "rock")
LIVE_LABELS = ("quiet", "loud")
WINDOW_SECONDS = 1.0
MADE_AT = dt.datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=dt.timezone.utc)


def prediction(uri: str, *, label: str = "jazz", **changed: Any) -> dict[str, Any]:
    """A row whose best score is 0.7 for ``label``; the others share the rest, growing."""
    shares = np.arange(1, len(LABELS)) / sum(range(1, len(LABELS))) * 0.3
    others = iter(shares)
    scores = [0.7 if name == label else float(next(others, 0.02)) for name in LABELS]
    top = sorted(zip(LABELS, scores, strict=True), key=lambda pair: -pair[1])[:3]
    row: dict[str, Any] = {
        "uri": uri, "track_id": None, "content_sha256": "c0ffee" * 10 + "c0ff", "size_bytes": 1_000,
        "modified_at": None, "duration_s": 3.5, "sample_rate_hz": 44_100, "channels": 2,
        "container": "WAV", "codec": "pcm_s16", "decoder": "soundfile", "decode_warnings": [],
        "label": label, "confidence": 0.7,
        "top_k": [{"label": name, "score": score} for name, score in top],
        "scores": scores, "window_count": 4, "embedding": None,
        "model_fingerprint": "model0123", "front_end_fingerprint": "frontend0123",
        "pipeline_version": "1.2.3", "run_id": "page", "labelled_at": MADE_AT,
    }  # fmt: skip
    return row | changed


def windows(duration_s: float, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Windows of a second, whose labels take turns."""
    count = max(1, int(np.ceil(duration_s / WINDOW_SECONDS)))
    return [
        {
            "window_index": index,
            "start_s": index * WINDOW_SECONDS,
            "end_s": min((index + 1) * WINDOW_SECONDS, duration_s),
            "label": labels[index % len(labels)],
            "confidence": 0.5 + 0.01 * (index % 40),
            "scores": [0.0] * len(LABELS),
        }
        for index in range(count)
    ]


def png(width: int = 672, height: int = 224) -> bytes:
    """A grey picture that gets brighter to the right."""
    rows = b"".join(
        b"\0" + bytes((x * 255 // width + y // 3) % 256 for x in range(width))
        for y in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


def wav(seconds: float, *, rate_hz: int = 16_000, frequency_hz: float = 440.0) -> bytes:
    """A sine as a WAV file."""
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    written = io.BytesIO()
    soundfile.write(written, 0.3 * np.sin(2 * np.pi * frequency_hz * times), rate_hz, format="WAV")
    return written.getvalue()


class StandIn:
    """Answers by the file's name: "broken" fails, "busy" is refused, "slow" waits for a gate.

    Of what is "mute" there is no sound for the browser.
    """

    def __init__(self) -> None:
        self.limits = Limits(upload_bytes=4 << 20, batch_files=6)
        self.models = (
            ServedModel(
                "genre-vit", "label", "model0123", "frontend0123", LABELS, 0.3, 22_050, 1.0
            ),
            ServedModel("digits-gru", "follow", "gru0123", "frontend4567", LIVE_LABELS),
            ServedModel("denoise-lstm", "enhance", "lstm0123", None),
        )
        self.reset()

    def reset(self) -> None:
        """Forget the calls; a gate that is closed."""
        self.is_open = False  # for all that is slow
        self.uploads: list[Upload] = []
        self.in_work = 0
        self.most_in_work = 0
        self.cancelled = 0
        self.refusals = 2  # of what is "busy", before it is taken
        self.heard: list[FloatArray] = []

    async def label(
        self, upload: Upload, *, picture: bool = False, told: Callable[[Progress], None] = untold
    ) -> Labelled:
        self.uploads.append(upload)
        if "busy" in upload.uri and self.refusals:
            self.refusals -= 1
            raise RefusedError(Problem.BUSY, "too much in work", retry_after_seconds=1)
        if "broken" in upload.uri or upload.uri.endswith(".txt"):
            raise StageError(Reason.NOT_AUDIO, "nothing recognises it")
        self.in_work += 1
        self.most_in_work = max(self.most_in_work, self.in_work)
        try:
            told(Progress(Step.DECODING, 12.0))
            if "slow" in upload.uri:
                while not self.is_open:
                    await asyncio.sleep(0.02)
            told(Progress(Step.LABELLING, 12.0))
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.in_work -= 1
        info = soundfile.info(upload.path)
        odd = ["clipped", "truncated"] if "odd" in upload.uri else []
        label = next((name for name in LABELS if name in upload.uri), "jazz")
        row = prediction(
            upload.uri, label=label, content_sha256=upload.sha256, size_bytes=upload.size_bytes,
            duration_s=info.duration, sample_rate_hz=info.samplerate, channels=info.channels,
            decode_warnings=odd,
        )  # fmt: skip
        return Labelled(
            row,
            windows(info.duration, (label, "rock")),
            png() if picture else None,
            "again" in upload.uri,
        )

    async def enhance(self, upload: Upload) -> Enhanced:
        if "broken" in upload.uri:
            raise StageError(Reason.CORRUPT, "no sound in it")
        samples, rate = soundfile.read(upload.path)
        path = upload.path.with_name("result.flac")
        soundfile.write(path, samples / 2, rate)
        row = prediction(upload.uri) | {
            "duration_s": len(samples) / rate, "sample_rate_hz": rate, "channels": 1,
            "dc_offset": [0.125], "rms_before": 0.25, "rms_after": 0.0625, "clipped_samples": 0,
            "method": "lstm",
        }  # fmt: skip
        return Enhanced(row, path)

    async def playable(self, upload: Upload, codec: str) -> Path:
        if "mute" in upload.uri:
            raise RefusedError(Problem.OUT_OF_TIME, "no copy in time")
        return upload.path

    async def follow(
        self, stream_id: str, samples: FloatArray, sample_rate_hz: int, state: bytes | None
    ) -> Heard:
        """A second row per piece, of how loud it was; a segment at the end."""
        before = float(state or b"0")
        after = before + len(samples) / sample_rate_hz
        self.heard.append(samples)
        if not len(samples):
            row = {"kind": "segment", "start_s": 0.0, "end_s": before, "label": "loud"}
            return Heard([row | {"confidence": 0.8, "scores": [0.2, 0.8]}], b"")
        loud = min(1.0, float(np.abs(samples).max()))
        label = LIVE_LABELS[int(loud > 0.1)]
        row = {"kind": "second", "start_s": before, "end_s": after, "label": label}
        row |= {"confidence": max(loud, 1 - loud), "scores": [1 - loud, loud]}
        return Heard([row], str(after).encode())
