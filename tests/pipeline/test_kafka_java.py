"""Java's part in reading Kafka on Flink: its jar, its service, its worker; Java is a stand-in."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from pipeline import clusters, java_worker, kafka_java
from pipeline.boot import worker_environment
from pipeline.clusters import cache_folder
from pipeline.java_worker import JAR_VARIABLE, harness_environment
from pipeline.kafka_java import expansion_service, job_server_jar
from tests.pipeline.test_boot import info
from transforms.errors import ClusterError, UsageError

# "Listens" at the port behind the service's name until it is killed.
LISTENS = """\
import socket, sys, time
place = sys.argv.index("org.apache.beam.sdk.expansion.service.ExpansionService")
held = socket.create_server(("127.0.0.1", int(sys.argv[place + 1])))
open({told!r}, "w").write("\\n".join(sys.argv))
time.sleep(600)
"""


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """The folder of what is installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    install(folder / clusters.JAVA_WORKER, "")
    return folder


def install(path: Path, code: str) -> None:
    path.write_text(f"#!{sys.executable}\n{code}")
    path.chmod(0o755)


def test_the_jar_is_the_one_given_or_fetched(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CATALOG_LABELS_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="deploy/local_cluster.sh flink fetch"):
        job_server_jar()
    fetched = cache_folder() / "jars" / "flink-1.19-job-server.jar"
    fetched.parent.mkdir()
    fetched.touch()
    assert job_server_jar() == fetched
    given = tmp_path / "given.jar"
    given.touch()
    assert job_server_jar(str(given)) == given


def test_the_service_is_there_while_a_graph_is_built(programs, tmp_path) -> None:
    told = tmp_path / "told"
    install(programs / clusters.JAVA, LISTENS.format(told=str(told)))
    with expansion_service(tmp_path / "a.jar") as address:
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
        said = told.read_text()
    assert f'"{JAR_VARIABLE}": "{tmp_path}/a.jar"' in said
    assert f'"command": "{programs / clusters.JAVA_WORKER}"' in said
    with pytest.raises(OSError):
        socket.create_connection((host, int(port)), timeout=5)


def test_a_service_that_ends_says_why(programs) -> None:
    install(programs / clusters.JAVA, "import sys\nsys.exit('no such class')")
    service = expansion_service(Path("a.jar"))
    with pytest.raises(ClusterError, match="does not start: no such class"), service:
        pass


def test_a_program_that_is_not_installed(programs) -> None:
    service = expansion_service(Path("a.jar"))
    with pytest.raises(UsageError, match=f"{clusters.JAVA} is missing"), service:
        pass


def test_the_harness_finds_what_a_worker_does() -> None:
    made = harness_environment(worker_environment(info(control="told:1"), "3-2", {}))
    assert made["HARNESS_ID"] == "3-2"
    assert "WORKER_ID" not in made
    assert "told:1" in made["CONTROL_API_SERVICE_DESCRIPTOR"]


def test_a_machine_without_the_jar_is_told_of(monkeypatch) -> None:
    monkeypatch.setenv(JAR_VARIABLE, "/nowhere/a.jar")
    with pytest.raises(SystemExit, match="/nowhere/a.jar: there is no such file"):
        java_worker.main(["--id=1", "--provision_endpoint=127.0.0.1:1"])


def test_it_becomes_the_harness(monkeypatch, tmp_path) -> None:
    jar = tmp_path / "a.jar"
    jar.touch()
    became: list[object] = []
    monkeypatch.setenv(JAR_VARIABLE, str(jar))
    monkeypatch.setattr(java_worker, "ask", lambda address, worker: info(control=address))
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    monkeypatch.setattr(os, "execvpe", lambda *call: became.extend(call))
    java_worker.main(["--id=5-1", "--provision_endpoint=told:7", "--artifact_endpoint=x:1"])
    program, arguments, environment = became
    assert program == "java"
    assert arguments[-3:] == ["-cp", str(jar), "org.apache.beam.fn.harness.FnHarness"]
    assert environment["HARNESS_ID"] == "5-1"
    assert kafka_java._SERVICE not in arguments
