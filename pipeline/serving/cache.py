"""Results by content, model and front end: in memory, and on disk where they outlive the server."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.serving.answers import Labelled
from pipeline.serving.shelf import Entry, Shelf

PER_REQUEST = frozenset({"uri", "track_id", "modified_at", "run_id", "labelled_at"})
"""Columns of a row that say who asked, and when; whoever answers fills them in."""


def content_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a prediction or a window that the file's bytes and the model decide.

    Parameters
    ----------
    row : mapping
        PredictionRow's or WindowRow's columns.
    """
    return {name: value for name, value in row.items() if name not in PER_REQUEST}


@dataclass(frozen=True)
class Key:
    """What a result depends on."""

    content_sha256: str
    model_fingerprint: str
    front_end_fingerprint: str
    settings: str  # whatever else changes a row: precision, --features, --embeddings…
    version: str = __version__

    def __str__(self) -> str:
        return json.dumps(astuple(self))


class ResultCache:
    """Keeps results; all methods may be called from any thread, and block for milliseconds.

    A folder may be shared by several processes. Trouble with it is logged, never raised: the
    cache then works on from memory.

    Parameters
    ----------
    folder : Path or None
        None keeps results in memory alone.
    memory_bytes, disk_bytes : int
        Bounds: of the rows and pictures in memory, and of the file on disk.

    Attributes
    ----------
    hits_memory, hits_disk, misses : int
        What :meth:`get` has found so far.
    """

    def __init__(
        self, folder: Path | None, memory_bytes: int = 64 << 20, disk_bytes: int = 1 << 30
    ) -> None:
        self.hits_memory = self.hits_disk = self.misses = 0
        self._memory = _Memory(memory_bytes)
        self._shelf = None if folder is None else Shelf(folder, disk_bytes)
        self._lock = threading.Lock()

    @property
    def memory_bytes(self) -> int:
        """What the results in memory take."""
        return self._memory.used_bytes

    @property
    def disk_bytes(self) -> int:
        """What the results on disk take."""
        return 0 if self._shelf is None else self._shelf.used_bytes()

    def get(self, key: Key, *, picture: bool = False) -> Labelled | None:
        """A result without the columns PER_REQUEST, or None.

        Parameters
        ----------
        key : Key
        picture : bool
            Whether it has to have its picture; without one it is no hit then.
        """
        name = str(key)
        with self._lock:
            entry = self._memory.get(name)
        in_memory = _serves(entry, picture)
        if self._shelf is not None:
            if in_memory:
                self._shelf.touch(name)  # what is asked for most must not be the oldest on disk
            else:
                entry = self._shelf.get(name)
        found = entry if _serves(entry, picture) else None
        with self._lock:
            self.hits_memory += in_memory
            self.hits_disk += found is not None and not in_memory
            self.misses += found is None
            if found is not None and not in_memory:
                self._memory.put(name, found)
        return None if found is None else _labelled(found, picture)

    def put(self, key: Key, result: Labelled) -> None:
        """Keep a result; one with a picture is not replaced by one without."""
        told = {
            "prediction": content_fields(result.prediction),
            "windows": [content_fields(window) for window in result.windows],
        }
        # Python writes the shortest decimal that reads as the very same number.
        rows = json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
        entry = Entry(rows, result.picture)
        name = str(key)
        with self._lock:
            self._memory.put(name, entry)
        if self._shelf is not None:
            self._shelf.put(name, entry)

    def close(self) -> None:
        """Close the file; the results on disk stay."""
        if self._shelf is not None:
            self._shelf.close()


class _Memory:
    """The results that were used last, as bytes: nobody can change what another one gets."""

    def __init__(self, most_bytes: int) -> None:
        self.used_bytes = 0
        self._most_bytes = most_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()

    def get(self, name: str) -> Entry | None:
        if (entry := self._entries.get(name)) is not None:
            self._entries.move_to_end(name)
        return entry

    def put(self, name: str, entry: Entry) -> None:
        if (older := self._entries.pop(name, None)) is not None:
            self.used_bytes -= older.size_bytes
            entry = Entry(entry.rows, entry.picture or older.picture)
        self._entries[name] = entry
        self.used_bytes += entry.size_bytes
        while self.used_bytes > self._most_bytes:
            self.used_bytes -= self._entries.popitem(last=False)[1].size_bytes


def _serves(entry: Entry | None, picture: bool) -> bool:
    return entry is not None and (entry.picture is not None or not picture)


def _labelled(entry: Entry, picture: bool) -> Labelled:
    told = json.loads(entry.rows)
    return Labelled(
        told["prediction"], told["windows"], entry.picture if picture else None, from_cache=True
    )
