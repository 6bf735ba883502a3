"""One client of S3 for each process, in place of one for each file.

Beam makes a boto3 session and a client for every operation: a tenth of a second of a core, and a
new connection. Clients may be shared by threads, and their connections are used again.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client

_RENEWED_SECONDS = 600.0  # credentials in a file may have been renewed

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
        """A client with these settings; the environment has others, and credentials."""
        environment = (item for item in os.environ.items() if item[0].startswith("AWS_"))
        period = time.monotonic() // _RENEWED_SECONDS
        key = (period, *sorted(settings.items()), *sorted(environment))
        with _lock:
            if key not in _clients:
                for old in [one for one in _clients if one[0] != period]:
                    del _clients[old]
                import boto3

                _clients[key] = boto3.session.Session().client(**settings)
            return _clients[key]


def _forget() -> None:
    """A fork has connections that are its parent's, and perhaps its lock."""
    global _lock
    _lock = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget)
