"""Writing the datasets of a run: Parquet files of bounded size, each there whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.manifest import is_local
from transforms.storage.durable import committed, delete_files, list_folder
from transforms.storage.json_lines import to_json_line
from transforms.storage.retry import retried

DATASETS = ("predictions", "windows", "failures", "enhanced")

_LOGGER = logging.getLogger(__name__)

_GROUP_ROWS = 20_000
_GROUP_BYTES = 64 << 20
_FILE_BYTES = 256 << 20  # a new file is begun beyond this


@dataclass(frozen=True)
class Target:
    """Where a run's rows go."""

    output: str
    run_id: str
    json_lines: bool = False  # the predictions to OUTPUT/json as well


def remove_datasets(target: Target) -> None:
    """Remove what this very run has published before; other runs' files stay."""
    for name in DATASETS:
        own = [
            path
            for path in list_folder(f"{target.output}/{name}")
            if path.rpartition("/")[2].startswith(f"{target.run_id}-")
        ]
        delete_files(own)


def list_dataset(output: str, name: str) -> list[str]:
    """The Parquet files of one of the :data:`DATASETS`, by name."""
    names = ((path, path.rpartition("/")[2]) for path in list_folder(f"{output}/{name}"))
    return [path for path, file in names if file.endswith(".parquet") and file[0] != "."]


def read_batches(
    path: str,
    rows: int,
    columns: Sequence[str] | None = None,
    optional: Set[str] = frozenset(),
) -> Iterator[pa.RecordBatch]:
    """Read one file of a dataset, some rows at a time.

    A file without one of the columns is not of this version, or not of this project: it is passed
    over with a warning. Batches of a file without an ``optional`` one come without it.
    """

    def open_file() -> Any:
        if is_local(path):
            return Path(path).open("rb")
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)

    with retried(path, open_file) as source, pq.ParquetFile(source) as file:
        present = set(file.schema_arrow.names)
        if missing := sorted(set(columns or ()) - present - optional):
            _LOGGER.warning("%s is passed over: it has no column %s", path, missing[0])
            return
        wanted = None if columns is None else [name for name in columns if name in present]
        yield from file.iter_batches(rows, columns=wanted)


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Tables to ``OUTPUT/NAME/RUN_ID-NNNNN.parquet``.

    No rows give no file, but for the first run into an output, whose one file then has the schema
    alone: so every dataset can be queried. Holds at most one row group. If it ends with an
    exception, it leaves the files that were full before.

    Parameters
    ----------
    target : Target
    name : str
        One of :data:`DATASETS`.
    schema : pyarrow.Schema

    Raises
    ------
    StorageError
        If a file cannot be written.
    """

    def __init__(self, target: Target, name: str, schema: pa.Schema) -> None:
        self._folder = f"{target.output}/{name}"
        self._run_id = target.run_id
        self._schema = schema
        self._number = 0
        self._held: list[pa.Table] = []
        self._held_rows = self._held_bytes = 0
        self._file = ExitStack()
        self._draft: Path | None = None  # of the file that is being written

    def _begin(self) -> None:
        path = f"{self._folder}/{self._run_id}-{self._number:05d}.parquet"
        self._draft = self._file.enter_context(committed(path))
        self._writer = pq.ParquetWriter(self._draft, self._schema, compression="zstd")
        self._file.enter_context(self._writer)
        self._number += 1

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        if not len(table):
            return
        self._held.append(table)
        self._held_rows += len(table)
        self._held_bytes += table.nbytes
        if self._held_rows >= _GROUP_ROWS or self._held_bytes >= _GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._draft is None:
            self._begin()
        assert self._draft is not None
        self._writer.write_table(pa.concat_tables(self._held).combine_chunks())
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        if self._draft.stat().st_size >= _FILE_BYTES:
            self._file.close()
            self._draft = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:  # which drops the draft if an exception passes
            if error is not None:
                raise error
            if self._held:
                self._write_group()
            elif self._number == 0 and not list_folder(self._folder):
                self._begin()


class JsonLinesWriter(AbstractContextManager["JsonLinesWriter"]):
    """The predictions as ``OUTPUT/json/RUN_ID.jsonl``, where the target asks for it."""

    def __init__(self, target: Target) -> None:
        self._file = ExitStack()
        self._lines: TextIO | None = None
        if target.json_lines:
            path = f"{target.output}/json/{target.run_id}.jsonl"
            draft = self._file.enter_context(committed(path))
            self._lines = self._file.enter_context(draft.open("w", encoding="utf-8"))

    def write(self, table: pa.Table) -> None:
        """Add rows."""
        if self._lines is not None:
            self._lines.writelines(f"{to_json_line(row)}\n" for row in table.to_pylist())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file:
            if error is not None:
                raise error
