"""Real clusters for tests, by deploy/local_cluster.sh, on ports and with logs of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.catalog import ROOT

SCRIPT = ROOT / "deploy" / "local_cluster.sh"
NEEDED = {
    "flink": ("java", "mvn"),
    "spark": ("java", "mvn"),
    "prism": ("go",),
    "kafka": ("java", "mvn"),
}
PORTS = ("FLINK_REST_PORT", "FLINK_RPC_PORT", "SPARK_PORT", "SPARK_UI_PORT", "PRISM_PORT",
         "KAFKA_PORT", "KAFKA_CONTROLLER_PORT")  # fmt: skip
START_SECONDS = 900  # downloads included


@dataclass(frozen=True)
class Cluster:
    """One that is up.

    Attributes
    ----------
    options : list of str
        For pipeline.main; of Kafka the broker's address.
    state : Path
        Folder of its logs, and of the process ids: flink-taskmanager-1.pid, ...
    ports : dict
        By the names of :data:`PORTS`.
    """

    options: list[str]
    state: Path
    ports: dict[str, int]

    def ask(self, path: str, method: str = "GET") -> Any:
        """What Flink's JobManager answers."""
        url = f"http://127.0.0.1:{self.ports['FLINK_REST_PORT']}/{path}"
        request = urllib.request.Request(url, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")


def process_of(cluster: Cluster, name: str) -> int:
    """The id of the process ``name``.pid."""
    return int((cluster.state / f"{name}.pid").read_text())


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: s.getsockname()[1] for name, s in zip(names, held, strict=True)}


@contextmanager
def started(name: str, folder: Path) -> Iterator[Cluster]:
    """Start a cluster, or skip the test where what it needs is not installed."""
    missing = [program for program in NEEDED[name] if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{name}: no {' and no '.join(missing)} here")
    ports = free_ports(PORTS)
    environment = os.environ | {k: str(v) for k, v in ports.items()}
    environment["CLUSTER_STATE"] = str(folder)

    def call(action: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(SCRIPT), name, action], env=environment, capture_output=True,
                              text=True, timeout=START_SECONDS, check=False)  # fmt: skip

    try:
        up = call("up")
        assert up.returncode == 0, up.stderr
        assert call("status").returncode == 0
        yield Cluster(up.stdout.splitlines()[0].split(), folder, ports)
    finally:
        assert call("down").returncode == 0
    assert call("status").returncode == 1
