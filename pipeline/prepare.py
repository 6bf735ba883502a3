"""Labelled tracks to the model's images, through the very stages that label."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
from apache_beam.io.parquetio import WriteToParquet

from pipeline.resources import available_cores
from pipeline.runner import run_locally
from transforms.decode import Decode
from transforms.mel import MelSpectrogram
from transforms.models.front_end import FrontEnd
from transforms.preprocess import Preprocess
from transforms.records import Failure, LogMelWindow, Track

ImageType = Literal["float32", "float16"]

_WINDOWS = pa.schema(
    [("uri", pa.string()), ("window_index", pa.int32()), ("content_s", pa.float64()),
     ("image", pa.binary())]
)  # fmt: skip
_FAILURES = pa.schema([("uri", pa.string()), ("reason", pa.string()), ("message", pa.string())])


@dataclass(frozen=True)
class WindowSet:
    """The windows of some tracks, in the order of the tracks."""

    images: Any  # (windows, image_height, image_width), -1 to 1, of the type that was asked for
    track: npt.NDArray[np.int64]  # (windows,) index of each window's track
    content_s: npt.NDArray[np.float64]  # (windows,) seconds of sound in each
    failures: dict[str, str]  # uri to what went wrong


def prepare_windows(
    uris: Sequence[str],
    front_end: FrontEnd,
    *,
    workers: int | None = None,
    dtype: ImageType = "float32",
) -> WindowSet:
    """Decode, preprocess and transform tracks with Beam on this machine.

    Parameters
    ----------
    uris : sequence of str
    front_end : FrontEnd
    workers : int, optional
        Worker processes; the cores when None.
    dtype : {"float32", "float16"}
        Of the images; half the memory is enough for what is augmented anyway.

    Returns
    -------
    WindowSet
        Windows of digital silence are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_locally(
            lambda pipeline: _build(pipeline, uris, front_end, folder, dtype),
            workers or available_cores(),
        )
        return _read(Path(folder), uris, front_end, dtype)


def _build(
    pipeline: beam.Pipeline,
    uris: Sequence[str],
    front_end: FrontEnd,
    folder: str,
    dtype: ImageType,
) -> None:
    tracks = pipeline | beam.Create([Track(uri) for uri in uris]) | beam.Reshuffle()
    decoded = tracks | Decode(front_end)
    prepared = decoded["windows"] | Preprocess(front_end)
    images = prepared["windows"] | MelSpectrogram(front_end)
    failures = (
        decoded["failures"], prepared["failures"], images["failures"]
    ) | beam.Flatten()  # fmt: skip
    (
        images["windows"]
        | beam.Map(_window_row, dtype)
        | "WriteWindows" >> _parquet(f"{folder}/windows/run", _WINDOWS)
    )
    (
        failures
        | "Failures" >> beam.Map(_failure_row)
        | "WriteFailures" >> _parquet(f"{folder}/failures/run", _FAILURES)
    )


def _parquet(prefix: str, schema: pa.Schema) -> beam.PTransform:
    return WriteToParquet(prefix, schema, codec="zstd", file_name_suffix=".parquet")


def _window_row(window: LogMelWindow, dtype: ImageType) -> dict[str, Any]:
    return {
        "uri": window.uri,
        "window_index": window.window_index,
        "content_s": window.content_s,
        "image": window.image.astype(dtype).tobytes(),
    }


def _failure_row(failure: Failure) -> dict[str, str]:
    return {"uri": failure.track.uri, "reason": failure.reason.value, "message": failure.message}


def _read(folder: Path, uris: Sequence[str], front_end: FrontEnd, dtype: ImageType) -> WindowSet:
    failed = ds.dataset(folder / "failures").to_table().to_pylist()
    failures = {row["uri"]: f"{row['reason']}: {row['message']}" for row in failed}
    index_of = {uri: index for index, uri in enumerate(uris) if uri not in failures}
    table = ds.dataset(folder / "windows").to_table()
    track = np.array([index_of.get(uri, -1) for uri in table["uri"].to_pylist()], dtype=np.int64)
    content_s = table["content_s"].to_numpy()
    order = np.lexsort((table["window_index"].to_numpy(), track))
    order = order[(track[order] >= 0) & (content_s[order] > 0)]
    shape = front_end.image_height, front_end.image_width
    images = np.empty((len(order), *shape), dtype=dtype)
    for place, row in enumerate(order):
        stored = table["image"][int(row)].as_buffer()
        images[place] = np.frombuffer(stored, dtype).reshape(shape)
    return WindowSet(images, track[order], content_s[order], failures)
