"""Manifests: CSV, JSON Lines or Parquet tables that list tracks and carry columns of their own.

A manifest has a column ``uri`` (or ``path``) and may have ``track_id``; every other column goes
through to the result under its own name (a CSV's as text), or as ``manifest_NAME`` where a
result column has that name already. Relative uris are resolved against the manifest's folder,
or a root that the caller states.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from transforms.errors import InputError
from transforms.records import FailureRow, Listing, PredictionRow
from transforms.storage.s3_clients import share_s3_clients

share_s3_clients()  # here, as whatever opens files imports this module

_FORMATS = {".csv": "csv", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
_FILE_SCHEME = "file://"
_RESULT_COLUMNS = frozenset(
    field.name for row in (PredictionRow, FailureRow) for field in fields(row)
)
URI_COLUMNS, TRACK_ID_COLUMN = ("uri", "path"), "track_id"


def is_manifest(path: str) -> bool:
    """Whether a path names a manifest, by its extension."""
    return Path(path).suffix.lower() in _FORMATS


def is_local(path: str) -> bool:
    """Whether a path lies on this machine's file system."""
    return "://" not in path


def file_uri_path(uri: str) -> str | None:
    """The local path that a ``file://`` uri names; None for any other uri."""
    if not uri.startswith(_FILE_SCHEME):
        return None
    return unquote(uri.removeprefix(_FILE_SCHEME).removeprefix("localhost"))


def resolve(uri: str, root: str) -> str:
    """One spelling of a uri: local ones as absolute paths, relative ones under ``root``."""
    if (named := file_uri_path(uri)) is not None:
        return os.path.abspath(named)
    if not is_local(uri):
        return uri
    if is_local(root):
        return os.path.abspath(Path(root, uri))
    return uri if uri.startswith("/") else f"{root.rstrip('/')}/{uri}"


@contextmanager
def local_copy(path: str) -> Iterator[Path]:
    """A path on this machine with the file's bytes; a remote file is copied and removed again.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    if is_local(path):
        yield Path(path)
        return
    with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy:
        try:
            with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as source:
                shutil.copyfileobj(source, copy, 1 << 20)
        except (OSError, BeamIOError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        copy.flush()
        yield Path(copy.name)


def _open_dataset(local: Path) -> ds.Dataset:
    kind = _FORMATS[local.suffix.lower()]
    if kind != "csv":
        return ds.dataset(local, format=kind)
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    names = ds.dataset(local, format=ds.CsvFileFormat(parse_options=parse)).schema.names
    # CSV has no types: a guessed one would turn the barcode 0123 into 123, or fail at the first
    # "unknown". Only an empty cell is missing: NA is a country, None and Null are people.
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    return ds.dataset(local, format=ds.CsvFileFormat(parse_options=parse, convert_options=convert))


def _uri_column(path: str, schema: pa.Schema) -> str:
    for name in URI_COLUMNS:
        if name in schema.names:
            return name
    raise InputError(
        f"{path}: no column 'uri' (or 'path'); its columns are "
        f"{', '.join(schema.names) or 'none'}; rename the one that holds the paths"
    )


def _carried(
    schema: pa.Schema, taken: Collection[str] = _RESULT_COLUMNS
) -> list[tuple[str, pa.Field]]:
    """(name in the manifest, field in the result) of the columns that go through."""
    own = {_uri_column("", schema), TRACK_ID_COLUMN}
    carried = []
    for column in schema:
        if column.name not in own:
            name = f"manifest_{column.name}" if column.name in taken else column.name
            carried.append((column.name, column.with_name(name).remove_metadata()))
    return carried


def _unreadable(path: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: there is no such manifest; check the path")
    lines = str(error).splitlines() or [type(error).__name__]
    reason = lines[0].rpartition(f"'{path}': ")[2].rstrip(".")
    kind = _FORMATS[Path(path).suffix.lower()]
    return InputError(f"{path}: not a readable {kind} manifest: {reason}; repair or rewrite it")


def check_manifest(path: str, taken: Collection[str] = _RESULT_COLUMNS) -> tuple[pa.Schema, int]:
    """Read all of a manifest once.

    Parameters
    ----------
    path : str
    taken : collection of str
        Names of the result's own columns.

    Returns
    -------
    schema : pyarrow.Schema
        The columns that go through to the result, under their names there.
    rows : int

    Raises
    ------
    InputError
        If it cannot be read or parsed, lacks a column or has no row.
    """
    with local_copy(path) as local:
        try:
            dataset = _open_dataset(local)
            _uri_column(path, dataset.schema)
            rows = sum(batch.num_rows for batch in dataset.to_batches())
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error
        if rows == 0:
            raise InputError(f"{path}: the manifest has no rows; list at least one uri")
        return _distinct(path, [column for _, column in _carried(dataset.schema, taken)]), rows


def _distinct(path: str, columns: list[pa.Field]) -> pa.Schema:
    """The schema of columns, none of whose names comes twice."""
    names = [column.name for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: more than one column would be named {twice[0]}; rename them")
    return pa.schema(columns)


def read_manifest(
    path: str, root: str | None = None, taken: Collection[str] = _RESULT_COLUMNS
) -> Iterator[tuple[str | None, Listing]]:
    """(uri, Listing) of every row, in order; the uri is None where the row states none.

    Parameters
    ----------
    path : str
    root : str, optional
        Folder for relative uris; the manifest's own when None.
    taken : collection of str
        Names of the result's own columns.
    """
    base = root if root is not None else path.rpartition("/")[0] or "."
    with local_copy(path) as local:
        dataset = _open_dataset(local)
        uri_column = _uri_column(path, dataset.schema)
        carried = _carried(dataset.schema, taken)
        for batch in dataset.to_batches():
            for row in batch.to_pylist():
                yield _listing(row, uri_column, carried, base)


def _listing(
    row: dict[str, Any], uri_column: str, carried: Sequence[tuple[str, pa.Field]], root: str
) -> tuple[str | None, Listing]:
    uri, track_id = row[uri_column], row.get(TRACK_ID_COLUMN)
    columns = {column.name: row[name] for name, column in carried}
    listing = Listing(None if track_id is None else str(track_id), columns)
    return (resolve(str(uri), root) if uri else None), listing


def carried_schema(paths: Sequence[str], taken: Collection[str] = _RESULT_COLUMNS) -> pa.Schema:
    """The columns that several manifests carry, as one schema.

    Raises
    ------
    InputError
        If a manifest is unusable, or two give one column types that have nothing in common.
    """
    schemas = [check_manifest(path, taken)[0] for path in paths]
    try:
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    except pa.ArrowException as error:
        raise InputError(f"manifests disagree on a column's type: {error}") from error
