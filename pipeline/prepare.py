"""Tracks to what models learn from, by the stages that label, in Parquet shards.

The shards are made by a Beam pipeline on any runner, and read from there:

    SHARDS/KIND-FINGERPRINT/part-NNNNN-of-NNNNN.parquet    uri, window_index, content_s, data
    SHARDS/KIND-FINGERPRINT/failures-…parquet              uri, reason, message
    SHARDS/KIND-FINGERPRINT/complete.json                  front end, and which files these were

They are made in a draft folder beside, which gets its name when all is there: several trainings may
share SHARDS, at the same time too.

KIND is what ``data`` holds (:data:`Kind`), FINGERPRINT the front end's.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
from apache_beam.io.parquetio import WriteToParquet

from pipeline import __version__
from pipeline.resources import available_cores
from pipeline.runner import run_locally
from pipeline.source_files import changed, stamps
from transforms.decode import Decode
from transforms.errors import UsageError
from transforms.mel import MelSpectrogram
from transforms.models.front_end import FrontEnd
from transforms.models.recogniser import frames_of
from transforms.preprocess import Preprocess
from transforms.records import Failure, FloatArray, LogMelWindow, PreparedWindow, Track

Kind = Literal["images", "half_images", "frames", "samples"]
"""images: (image_height, image_width) float32, what labelling would see; half_images: the same in
float16; frames: the columns of an image that hold sound, (frames, image_height) float16, for
sequence models; samples: int16 at the front end's rate, without padding."""

RunBeam: TypeAlias = Callable[[Callable[[beam.Pipeline], None]], None]
"""Builds a pipeline with the function that it is given, and runs it to its end."""

_TYPES = {"images": "float32", "half_images": "float16", "frames": "float16", "samples": "int16"}
_FULL_SCALE = 32_767
_COMPLETE = "complete.json"
_DRAFT, _LOCK = ".draft-", "lock"
_WINDOWS = pa.schema(
    [("uri", pa.string()), ("window_index", pa.int32()), ("content_s", pa.float64()),
     ("data", pa.binary())]
)  # fmt: skip
_FAILURES = pa.schema([("uri", pa.string()), ("reason", pa.string()), ("message", pa.string())])


@dataclass(frozen=True)
class WindowSet:
    """The windows of some tracks, in the order of the tracks."""

    images: Any  # (windows, image_height, image_width) in [-1, 1]; of the other kinds a list
    track: npt.NDArray[np.int64]  # (windows,) index of each window's track
    content_s: npt.NDArray[np.float64]  # (windows,) seconds of sound in each
    failures: dict[str, str]  # uri to what went wrong


def on_this_machine(build: Callable[[beam.Pipeline], None], args: Sequence[str] = ()) -> None:
    """Run a pipeline in one worker process for each core, with more options of Beam's."""
    run_locally(build, available_cores(), args)


@dataclass(frozen=True)
class Shards:
    """Where prepared windows are kept, and how they are made.

    Parameters
    ----------
    folder : Path
        On a file system that this machine and the runner's workers share.
    run_beam : callable
    """

    folder: Path
    run_beam: RunBeam = on_this_machine

    def windows(self, uris: Sequence[str], front_end: FrontEnd, kind: Kind) -> WindowSet:
        """The windows of tracks: read where they are prepared, else prepared first.

        Windows of digital silence are left out.

        Raises
        ------
        UsageError
            If the folder holds shards of other tracks, of files that have changed since, or of
            another version of this program.
        """
        folder = self.folder / f"{kind}-{front_end.fingerprint()}"
        facts = {
            "version": __version__,
            "front_end": dataclasses.asdict(front_end),
            "tracks": _digest(uris),
            "files": stamps(uris),  # as they are before they are read
        }
        if not (folder / _COMPLETE).exists():
            self._prepare(folder, facts, uris, front_end, kind)
        _check(folder, facts)
        return _read(folder, uris, front_end, kind)

    def _prepare(
        self, folder: Path, facts: dict[str, Any], uris: Sequence[str], front_end: FrontEnd,
        kind: Kind,
    ) -> None:  # fmt: skip
        """Make the shards in a draft of one's own, then give them their name at once.

        Others may prepare the same at the same time: whoever ends first gives the name.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove_dead_drafts(self.folder)
        with _draft_folder(folder) as draft:
            if folder.exists() and not (folder / _COMPLETE).exists():
                os.replace(folder, draft / "incomplete")  # of versions that made them in place
            made = draft / "made"
            made.mkdir()
            self.run_beam(lambda pipeline: _build(pipeline, uris, front_end, str(made), kind))
            replace_text(made / _COMPLETE, json.dumps(facts, indent=2) + "\n")
            try:
                os.replace(made, folder)
            except OSError:
                if not (folder / _COMPLETE).exists():  # else another has made them meanwhile
                    raise


def _check(folder: Path, facts: dict[str, Any]) -> None:
    found = json.loads((folder / _COMPLETE).read_text())
    if found.get("version") != facts["version"]:
        made_of = f"by version {found.get('version', 'unknown')} of this program"
    elif any(found[name] != facts[name] for name in ("front_end", "tracks")):
        made_of = "of other tracks"
    elif uri := changed(found["files"], facts["files"]):
        made_of = f"before {uri} changed"
    else:
        return
    raise UsageError(
        f"{folder} holds what was prepared {made_of}; remove it, or name another folder with "
        "--shards"
    )


@contextmanager
def _draft_folder(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, for this process alone, removed at the end.

    While it is in use its lock is held; that of a killed process is free.
    """
    draft = folder.with_name(f"{_DRAFT}{folder.name}-{secrets.token_hex(4)}")
    draft.mkdir()
    with open(draft / "lock.new", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.replace(draft / "lock.new", draft / _LOCK)  # it shows only when it is held
        try:
            yield draft
        finally:
            shutil.rmtree(draft)


def _remove_dead_drafts(folder: Path) -> None:
    """Remove what killed preparations left."""
    for path in folder.glob(f"{_DRAFT}*/{_LOCK}"):
        with suppress(OSError), open(path) as lock:  # held, or removed by another in this moment
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Write a small file such that it is there as a whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text)
    os.replace(draft, path)


def prepare_windows(
    uris: Sequence[str], front_end: FrontEnd, *, workers: int | None = None, kind: Kind = "images"
) -> WindowSet:
    """Decode, preprocess and transform tracks on this machine, leaving no shards behind."""
    with tempfile.TemporaryDirectory() as folder:
        count = workers or available_cores()
        shards = Shards(Path(folder), lambda build: run_locally(build, count))
        return shards.windows(uris, front_end, kind)


def _digest(uris: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(sorted(uris)).encode()).hexdigest()


def _build(
    pipeline: beam.Pipeline, uris: Sequence[str], front_end: FrontEnd, folder: str, kind: Kind
) -> None:
    tracks = pipeline | beam.Create([Track(uri) for uri in uris]) | beam.Reshuffle()
    decoded = tracks | Decode(front_end)
    stages = [decoded, decoded["windows"] | Preprocess(front_end)]
    if kind != "samples":
        stages.append(stages[-1]["windows"] | MelSpectrogram(front_end))
    (
        stages[-1]["windows"]
        | "Rows" >> beam.Map(_window_row, front_end, kind)
        | "WriteWindows" >> _parquet(f"{folder}/part", _WINDOWS)
    )
    (
        [stage["failures"] for stage in stages]
        | "AllFailures" >> beam.Flatten()
        | "Failures" >> beam.Map(_failure_row)
        | "WriteFailures" >> _parquet(f"{folder}/failures", _FAILURES)
    )


def _parquet(prefix: str, schema: pa.Schema) -> beam.PTransform:
    return WriteToParquet(prefix, schema, codec="zstd", file_name_suffix=".parquet")


def _window_row(
    window: LogMelWindow | PreparedWindow, front_end: FrontEnd, kind: Kind
) -> dict[str, Any]:
    return {
        "uri": window.uri,
        "window_index": window.window_index,
        "content_s": window.content_s,
        "data": _data(window, front_end, kind).astype(_TYPES[kind]).tobytes(),
    }


def _data(
    window: LogMelWindow | PreparedWindow, front_end: FrontEnd, kind: Kind
) -> npt.NDArray[Any]:
    if isinstance(window, PreparedWindow):
        held = round(window.content_s * front_end.sample_rate_hz)
        return to_int16(window.samples[:held])
    if kind == "frames":
        return window.image[:, : frames_of(window.content_s, front_end)].T
    return window.image


def to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    """Samples of full scale 1.0 as 16-bit integers; what is over full scale is clipped."""
    return np.round(np.clip(samples, -1.0, 1.0) * _FULL_SCALE).astype(np.int16)


def to_float(samples: npt.NDArray[np.int16]) -> FloatArray:
    """What :func:`to_int16` was given, within a 65,534th."""
    return samples.astype(np.float32) / np.float32(_FULL_SCALE)


def _failure_row(failure: Failure) -> dict[str, str]:
    return {"uri": failure.track.uri, "reason": failure.reason.value, "message": failure.message}


def _read(folder: Path, uris: Sequence[str], front_end: FrontEnd, kind: Kind) -> WindowSet:
    failed = ds.dataset(sorted(map(str, folder.glob("failures-*"))), schema=_FAILURES).to_table()
    failures = {
        row["uri"]: f"{row['reason']}: {row['message']}" for row in failed.to_pylist()
    }
    index_of = {uri: index for index, uri in enumerate(uris) if uri not in failures}
    table = ds.dataset(sorted(map(str, folder.glob("part-*"))), schema=_WINDOWS).to_table()
    track = np.array([index_of.get(uri, -1) for uri in table["uri"].to_pylist()], dtype=np.int64)
    content_s = table["content_s"].to_numpy()
    order = np.lexsort((table["window_index"].to_numpy(), track))
    order = order[(track[order] >= 0) & (content_s[order] > 0)]
    shape = _shape(front_end, kind)
    found = [
        np.frombuffer(table["data"][int(row)].as_buffer(), _TYPES[kind]).reshape(shape)
        for row in order
    ]
    values = np.array(found).reshape(-1, *shape) if kind.endswith("images") else found
    return WindowSet(values, track[order], content_s[order], failures)


def _shape(front_end: FrontEnd, kind: Kind) -> tuple[int, ...]:
    if kind == "samples":
        return (-1,)
    if kind == "frames":
        return -1, front_end.image_height
    return front_end.image_height, front_end.image_width
