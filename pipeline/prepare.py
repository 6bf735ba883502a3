"""Labelled tracks to the model's images, through the very stages that label."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds

from pipeline.options import available_cores
from pipeline.runner import run_locally
from transforms.decode import Decode
from transforms.mel import MelSpectrogram
from transforms.models.front_end import FrontEnd
from transforms.preprocess import Preprocess
from transforms.records import Failure, FloatArray, LogMelWindow, Track
from transforms.write import WriteToParquet

_WINDOWS = pa.schema(
    [("uri", pa.string()), ("window_index", pa.int32()), ("content_s", pa.float64()),
     ("image", pa.binary())]
)  # fmt: skip
_FAILURES = pa.schema([("uri", pa.string()), ("reason", pa.string()), ("message", pa.string())])


@dataclass(frozen=True)
class WindowSet:
    """The windows of some tracks, in the order of the tracks."""

    images: FloatArray  # (windows, image_height, image_width), -1 to 1
    track: npt.NDArray[np.int64]  # (windows,) index of each window's track
    content_s: npt.NDArray[np.float64]  # (windows,) seconds of sound in each
    failures: dict[str, str]  # uri to what went wrong


def prepare_windows(
    uris: Sequence[str], front_end: FrontEnd, workers: int | None = None
) -> WindowSet:
    """Decode, preprocess and transform tracks with Beam on this machine.

    Parameters
    ----------
    uris : sequence of str
    front_end : FrontEnd
    workers : int, optional
        Worker processes; the cores when None.

    Returns
    -------
    WindowSet
        Windows of digital silence are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_locally(
            lambda pipeline: _build(pipeline, uris, front_end, folder),
            workers or available_cores(),
        )
        return _read(Path(folder), uris, front_end)


def _build(pipeline: beam.Pipeline, uris: Sequence[str], front_end: FrontEnd, folder: str) -> None:
    tracks = pipeline | beam.Create([Track(uri) for uri in uris]) | beam.Reshuffle()
    decoded = tracks | Decode(front_end)
    prepared = decoded["windows"] | Preprocess(front_end)
    images = prepared["windows"] | MelSpectrogram(front_end)
    failures = (
        decoded["failures"], prepared["failures"], images["failures"]
    ) | beam.Flatten()  # fmt: skip
    (
        images["windows"]
        | beam.Map(_window_row)
        | "WriteWindows" >> WriteToParquet(f"{folder}/windows", "run", _WINDOWS)
    )
    (
        failures
        | "Failures" >> beam.Map(_failure_row)
        | "WriteFailures" >> WriteToParquet(f"{folder}/failures", "run", _FAILURES)
    )


def _window_row(window: LogMelWindow) -> dict[str, Any]:
    return {
        "uri": window.uri,
        "window_index": window.window_index,
        "content_s": window.content_s,
        "image": window.image.tobytes(),
    }


def _failure_row(failure: Failure) -> dict[str, str]:
    return {"uri": failure.uri, "reason": failure.reason.value, "message": failure.message}


def _read(folder: Path, uris: Sequence[str], front_end: FrontEnd) -> WindowSet:
    failed = ds.dataset(folder / "failures").to_table().to_pylist()
    failures = {row["uri"]: f"{row['reason']}: {row['message']}" for row in failed}
    index_of = {uri: index for index, uri in enumerate(uris)}
    rows = [
        row
        for row in ds.dataset(folder / "windows").to_table().to_pylist()
        if row["uri"] not in failures and row["content_s"] > 0
    ]
    rows.sort(key=lambda row: (index_of[row["uri"]], row["window_index"]))
    shape = (len(rows), front_end.image_height, front_end.image_width)
    images = np.frombuffer(b"".join(row["image"] for row in rows), np.float32).reshape(shape)
    return WindowSet(
        images,
        np.array([index_of[row["uri"]] for row in rows], dtype=np.int64),
        np.array([row["content_s"] for row in rows]),
        failures,
    )
