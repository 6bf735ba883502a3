"""Which uris may be asked for: those within the folders that the server's owner named."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from pipeline.serving.answers import Problem, RefusedError
from transforms.errors import UsageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CONTROL = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # and what no encoding can write
_STEPS = frozenset({".", ".."})


def checked_roots(roots: Sequence[str]) -> tuple[str, ...]:
    """One spelling of the folders that may be asked for; call it once, when the server starts.

    Parameters
    ----------
    roots : sequence of str
        Folders of this machine, or prefixes such as ``s3://bucket/music``.

    Raises
    ------
    UsageError
        For a folder that is not there, and a prefix that names no bucket or is the web.
    """
    return tuple(_checked_root(root) for root in roots)


def _checked_root(root: str) -> str:
    if (scheme := _SCHEME.match(root)) is None:
        if not os.path.isdir(root):
            raise UsageError(f"--root={root}: there is no such folder; name one, or a prefix")
        return os.path.realpath(root)
    if scheme[0].lower() in {"http://", "https://", "ftp://", "file://"}:
        raise UsageError(f"--root={root}: name a folder, or a prefix such as s3://bucket/music/")
    place = root[scheme.end() :].rstrip("/")
    if not place or not _is_straight(place):
        raise UsageError(f"--root={root}: name a bucket or folder in it, without '.' and '..'")
    return f"{scheme[0]}{place}/"


def resolve_uri(uri: str, roots: Sequence[str]) -> str:
    """The one file within the allowed folders that a uri names.

    Parameters
    ----------
    uri : str
        An absolute path, ``file:///…`` (percent-encoded), or a uri under one of the prefixes.
    roots : sequence of str
        As :func:`checked_roots` made them.

    Returns
    -------
    str
        What may be opened: a path without symbolic links, or the uri as it is. It need not
        exist, and a local one may be a folder.

    Raises
    ------
    RefusedError
        FORBIDDEN, whether or not there is anything.
    """
    if not roots:
        raise _forbidden("no file may be asked for by its uri here; send the file itself, or")
    if not _CONTROL.search(uri):
        found = _resolved_remote(uri, roots) if _is_remote(uri) else _resolved_local(uri, roots)
        if found is not None:
            return found
    raise _forbidden("this uri is not in a folder that may be asked for; send the file itself, or")


def _is_remote(uri: str) -> bool:
    return "://" in uri and not uri.startswith(("/", "file://"))


def _resolved_remote(uri: str, roots: Sequence[str]) -> str | None:
    # As it is spelt: no storage takes S3:// or user@ for the bucket that the prefix means.
    for root in roots:
        if uri.startswith(root) and _is_remote(root) and _is_straight(uri.removeprefix(root)):
            return uri
    return None


def _is_straight(path: str) -> bool:
    """Whether a path has no step up or aside in it, however often it is decoded on its way."""
    while (decoded := unquote(path)) != path:
        path = decoded
    return _STEPS.isdisjoint(re.split(r"[/\\]", path)) and not _CONTROL.search(path)


def _resolved_local(uri: str, roots: Sequence[str]) -> str | None:
    path = uri
    if uri.startswith("file://"):
        path = unquote(uri.removeprefix("file://").removeprefix("localhost"))
    if not path.startswith("/") or _CONTROL.search(path):
        return None
    found = os.path.realpath(path)
    # Links that lead in a circle stay unresolved, and what follows them with them.
    if os.path.realpath(found) != found or os.path.islink(found):
        return None
    for root in roots:
        if not _is_remote(root) and os.path.commonpath((root, found)) == root:
            return found
    return None


def _forbidden(found: str) -> RefusedError:
    message = f"{found} ask the server's owner to start it with --root=FOLDER"
    return RefusedError(Problem.FORBIDDEN, message)
