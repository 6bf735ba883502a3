"""Which files a glob or a folder names, on this machine's disk and on Beam's file systems.

``**/`` in a glob is any number of folders, none included (Beam's own misses ``a/x.mp3`` for
``a/**/*.mp3``), and links to folders are followed (Beam's listing leaves them out). What cannot
be listed or no longer exists is named all the same: it fails later, under its own name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apache_beam.io.filesystem import BeamIOError, FileMetadata
from apache_beam.io.filesystems import FileSystems

from transforms.errors import InputError
from transforms.manifest import is_local

SIDECARS = frozenset(
    ".jpg .jpeg .png .gif .webp .bmp .pdf .txt .md .nfo .log .cue .m3u .m3u8 .pls .sfv .md5 .ffp "
    ".sha256 .accurip .ini .db .xml .json .jsonl .ndjson .csv .tsv .parquet .html .htm .url .lrc "
    ".zip".split()
)
"""Extensions that a folder input leaves out. A glob or a manifest leaves nothing out."""

_TOKENS = re.compile(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^]]*\]|.", re.DOTALL)
_WILD = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Listed:
    """One file that an input names."""

    path: str
    size_bytes: int | None = None  # None: it cannot be asked
    modified_us: int | None = None  # microseconds since 1970


def glob_regex(pattern: str) -> re.Pattern[str]:
    """A shell glob as a regular expression for whole paths."""
    parts = []
    for token in _TOKENS.findall(pattern):
        if token in _WILD:
            parts.append(_WILD[token])
        elif len(token) > 1:  # a class, [abc] or [!abc]
            inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
            negated = inside[:1] in ("!", "^")
            body = inside[1:] if negated else inside
            parts.append(f"[{'^' * negated}{body.replace(']', chr(92) + ']')}]")
        else:
            parts.append(re.escape(token))
    return re.compile("".join(parts), re.DOTALL)


def is_folder(path: str) -> bool:
    """Whether an input means everything below it: a local folder, or any path that ends in /."""
    return path.endswith("/") or (is_local(path) and Path(path).is_dir())


def is_sidecar(path: str, folder: str) -> bool:
    """Whether a folder input leaves this file out: hidden, or of a kind that is not audio."""
    inside = path[len(folder) :]
    hidden = inside.startswith(".") or "/." in inside
    return hidden or os.path.splitext(inside)[1].lower() in SIDECARS


def match(path: str) -> Iterator[Listed]:
    """Files of a glob, a folder or a single path, each once.

    Raises
    ------
    InputError
        If the file system cannot list it at all.
    """
    full = os.path.abspath(path) if is_local(path) else path
    if is_folder(path):
        folder = full.rstrip("/") + "/"
        yield from (item for item in _below(folder) if not is_sidecar(item.path, folder))
    elif is_local(full) and Path(full).is_file():  # no glob, whatever its name
        yield look_up(full)
    else:
        fixed = re.split(r"[*?\[]", full, maxsplit=1)[0].rpartition("/")[0] + "/"
        wanted = glob_regex(full)
        yield from (item for item in _below(fixed) if wanted.fullmatch(item.path))


def _below(folder: str) -> Iterator[Listed]:
    return _walk(folder) if is_local(folder) else _list_remote(folder)


def _walk(folder: str) -> Iterator[Listed]:
    """Everything below a local folder, through links, each real folder once."""
    seen: set[tuple[int, int]] = set()
    refused: list[str] = []
    walk = os.walk(folder, followlinks=True, onerror=lambda e: refused.append(str(e.filename)))
    for parent, folders, names in walk:
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above or beside
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            yield look_up(path)
    for path in refused:
        if os.path.exists(path):
            yield Listed(path)


def look_up(path: str) -> Listed:
    """Size and modification time of one file, as far as they can be had."""
    try:
        if is_local(path):
            status = os.stat(path)
            return Listed(path, status.st_size, status.st_mtime_ns // 1_000)
        return _of_metadata(FileSystems.get_filesystem(path).metadata(path))
    except (OSError, ValueError, BeamIOError):  # reading it will say what is wrong
        return Listed(path)


def _of_metadata(metadata: FileMetadata) -> Listed:
    seconds = metadata.last_updated_in_seconds
    return Listed(metadata.path, metadata.size_in_bytes, round(seconds * 1e6) if seconds else None)


def _list_remote(folder: str) -> Iterator[Listed]:
    # Beam makes a regular expression of a glob; a [ needs company, or Python warns.
    escaped = re.sub(r"[*?]", r"[\g<0>]", folder.replace("[", r"[\[]"))
    try:
        (result,) = FileSystems.match([f"{escaped}**"])
    except (BeamIOError, OSError, ValueError) as error:
        raise InputError(f"--input={folder}: cannot be listed: {error}") from error
    for metadata in result.metadata_list:
        if metadata.path.startswith(folder):
            yield _of_metadata(metadata)
