"""Clients of S3 that a process uses again, in place of one for each file.

Beam makes a boto3 session and a client for every operation: a tenth of a second of a core, and a
new connection. Clients may be shared by threads, and their connections are used again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client

_CONNECTIONS = 32  # more than this project's threads that wait for storage; boto3 has 10
_FILES = (
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
    ("AWS_CONFIG_FILE", "~/.aws/config"),
)

_lock = threading.Lock()
_clients: dict[tuple[Any, ...], Any] = {}


def share_s3_clients() -> None:
    """Let Beam's S3 file system share clients in this process; nothing without boto3."""
    library = boto3_client.boto3
    if library is not None and not isinstance(library, _Sharing):
        boto3_client.boto3 = _Sharing(library, session=_Sharing(library.session, Session=_Session))


class _Sharing:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Session:
    """As much of boto3's session as Beam uses."""

    def client(self, **settings: Any) -> Any:
        """The client of these settings and the present ``AWS_*`` variables and files of AWS."""
        outside = tuple(_outside())
        key = (outside, *sorted(settings.items()))
        with _lock:
            if key not in _clients:
                for old in [one for one in _clients if one[0] != outside]:
                    del _clients[old]
                _clients[key] = _new_client(**settings)
            return _clients[key]


def _outside() -> Iterator[tuple[str, Any]]:
    """What a new client would take from elsewhere: credentials in a file are renewed there."""
    yield from sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))
    for variable, usual in _FILES:
        try:
            found = os.stat(os.path.expanduser(os.environ.get(variable, usual)))
        except OSError:  # none, or not to be read: boto3 does without, too
            yield variable, None
        else:
            yield variable, found.st_mtime_ns


def _new_client(**settings: Any) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=_CONNECTIONS)
    return boto3.session.Session().client(**settings, config=config)


def _forget() -> None:
    """A fork has connections that are its parent's, and perhaps its lock."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
