"""Beam's KafkaIO on a Flink cluster: the expansion service that puts it into a graph.

The transform itself runs in the cluster: the reading inside Flink's own source, whose offsets are
part of its checkpoints, and the step behind it in Beam's Java harness, a process
(pipeline.java_worker). All of it comes out of the job server's jar.
"""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.clusters import JAVA, JAVA_WORKER, cache_folder, installed_program
from pipeline.java_worker import JAR_VARIABLE
from transforms.errors import ClusterError, UsageError

_SERVICE = "org.apache.beam.sdk.expansion.service.ExpansionService"
_START_SECONDS = 60.0
_LOOK_SECONDS = 0.1


def job_server_jar(given: str | None = None) -> Path:
    """The jar with KafkaIO in it: what ``--flink_job_server_jar`` says, or the one fetched.

    Raises
    ------
    UsageError
        If it is not there.
    """
    jar = Path(given) if given else cache_folder() / "jars" / "flink-1.19-job-server.jar"
    if not jar.is_file():
        raise UsageError(
            f"reading Kafka on Flink needs {jar}; let deploy/local_cluster.sh flink fetch build it"
        )
    return jar


@contextmanager
def expansion_service(jar: Path) -> Iterator[str]:
    """Java's expansion service, for the building of a graph: it listens on all interfaces.

    Parameters
    ----------
    jar : Path
        The job server's, at the same path on every machine of the cluster.

    Yields
    ------
    str
        HOST:PORT.

    Raises
    ------
    ClusterError
        If it does not start.
    """
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(_command(jar, port), stdout=log, stderr=log)
        try:
            _wait_for(process, port, log)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def _command(jar: Path, port: int) -> list[str]:
    worker = installed_program(JAVA_WORKER, "which starts Beam's Java harness")
    environment = {"command": worker, "env": {JAR_VARIABLE: str(jar)}}
    return [
        installed_program(JAVA, "which starts Java"),
        *("-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", str(jar)),
        *(_SERVICE, str(port)),
        # Flink reads the source itself; else it would be a splittable DoFn in the harness.
        "--experiments=use_deprecated_read",
        "--defaultEnvironmentType=PROCESS",
        f"--defaultEnvironmentConfig={json.dumps(environment)}",
        "--filesToStage=",  # the jar is everywhere already
    ]


def _wait_for(process: subprocess.Popen[bytes], port: int, log: IO[str]) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while time.monotonic() < give_up and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(_LOOK_SECONDS)
    log.seek(0)
    said = log.read().strip().splitlines() or ["it said nothing"]
    raise ClusterError(f"Beam's expansion service does not start: {said[-1]}")
