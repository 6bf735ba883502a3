"""What runners get beyond what the caller gave, and what is refused before any work."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import apache_beam
import pytest

from pipeline import clusters
from pipeline.clusters import cluster_options
from transforms.errors import UsageError

VERSION = apache_beam.__version__
OVERVIEW = {"taskmanagers": 2, "slots-total": 8, "flink-version": "2.1.4"}
CONFIG = [{"key": "rest.port", "value": "8081"}]


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch) -> Path:
    """Java, the worker program, and an empty cache."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("java", clusters.WORKER, clusters.JAVA):
        add_program(programs / name)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("CATALOG_LABELS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def add_program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def add_jar(machine: Path, kind: str) -> Path:
    jar = machine / "cache" / "jars" / f"{kind}-job-server.jar"
    jar.parent.mkdir(parents=True)
    jar.touch()
    return jar


@pytest.fixture
def flink() -> Iterator[str]:
    """The REST address of something that answers as a JobManager does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/overview": OVERVIEW, "/jobmanager/config": CONFIG}
            self.send_response(200 if self.path in known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(known.get(self.path)).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def as_dict(options: list[str]) -> dict[str, str]:
    pairs = (option.removeprefix("--").split("=", 1) for option in options)
    return dict(pair for pair in pairs if pair[0] != "job_server_jvm_properties")


def in_java(machine: Path) -> dict[str, str]:
    return {"job_server_java_launcher": str(machine / "bin" / clusters.JAVA)}


def command(machine: Path) -> str:
    return json.dumps({"command": str(machine / "bin" / clusters.WORKER)})


def test_other_runners_get_nothing() -> None:
    assert cluster_options("DirectRunner", []) == []
    assert cluster_options("DataflowRunner", []) == []


def test_flink_gets_what_its_cluster_has(machine, flink) -> None:
    jar = add_jar(machine, "flink-2.1")
    assert as_dict(cluster_options("FlinkRunner", [f"--flink_master={flink}"])) == {
        "environment_type": "PROCESS",
        "environment_config": command(machine),
        "flink_version": "2.1",
        "parallelism": "8",
        "sdk_worker_parallelism": "4",
        "environment_cache_millis": "500",
        "flink_job_server_jar": str(jar),
        **in_java(machine),
    }


def test_a_parallelism_of_one_is_as_flink_comes(flink, monkeypatch) -> None:
    monkeypatch.setitem(CONFIG[0], "key", "parallelism.default")
    monkeypatch.setitem(CONFIG[0], "value", "1")
    found = as_dict(cluster_options("FlinkRunner", [f"--flink_master={flink}"]))
    assert (found["parallelism"], found["sdk_worker_parallelism"]) == ("8", "4")


def test_flinks_own_parallelism_goes_before_its_slots(flink, monkeypatch) -> None:
    monkeypatch.setitem(CONFIG[0], "key", "parallelism.default")
    monkeypatch.setitem(CONFIG[0], "value", "3")
    found = as_dict(cluster_options("FlinkRunner", [f"--flink_master={flink}"]))
    assert (found["parallelism"], found["sdk_worker_parallelism"]) == ("3", "2")


def test_what_is_given_stays(machine, flink) -> None:
    add_jar(machine, "flink-1.20")
    given = ["--flink_master", f"http://{flink}", "--flink_version=1.20", "--parallelism=3",
             "--sdk_worker_parallelism", "1", "--environment_type=DOCKER",
             "--flink_job_server_jar=/a.jar", "--job_server_java_launcher=java",
             "--environment_cache_millis=0"]  # fmt: skip
    assert as_dict(cluster_options("FlinkRunner", given)) == {}


def test_without_a_jar_of_ours_beam_finds_its_own(flink) -> None:
    assert "flink_job_server_jar" not in as_dict(
        cluster_options("FlinkRunner", [f"--flink_master={flink}"])
    )


def test_flinks_job_server_opens_what_java_17_closed(flink) -> None:
    options = cluster_options("FlinkRunner", [f"--flink_master={flink}"])
    assert "--job_server_jvm_properties=--add-opens=java.base/java.util=ALL-UNNAMED" in options


def test_spark(machine) -> None:
    jar = add_jar(machine, "spark-3")
    with socket.create_server(("127.0.0.1", 0)) as master:
        port = master.getsockname()[1]
        found = cluster_options("SparkRunner", [f"--spark_master_url=spark://127.0.0.1:{port}"])
    assert as_dict(found) == {
        "environment_type": "PROCESS",
        "environment_config": command(machine),
        "spark_job_server_jar": str(jar),
        **in_java(machine),
    }


def test_prism(machine) -> None:
    binary = machine / "cache" / "prism" / f"prism-{VERSION}"
    add_program(binary)
    assert as_dict(cluster_options("PrismRunner", [])) == {
        "environment_type": "PROCESS",
        "environment_config": command(machine),
        "prism_location": str(binary),
    }
    given = [f"--prism_location={binary}", "--environment_type=LOOPBACK"]
    assert cluster_options("PrismRunner", given) == []
    assert "prism_location" not in as_dict(cluster_options("PrismRunner", ["--job_endpoint=a:1"]))


@pytest.mark.parametrize(
    ("runner", "given", "told"),
    [
        ("FlinkRunner", [], r"needs --flink_master=HOST:PORT.*flink up"),
        ("FlinkRunner", ["--flink_master=127.0.0.1:1"], "127.0.0.1:1: no Flink cluster answers"),
        ("SparkRunner", [], r"needs --spark_master_url=.*spark up"),
        ("SparkRunner", ["--spark_master_url=spark://127.0.0.1:1"], "no Spark master answers"),
        ("SparkRunner", ["--spark_master_url=spark://127.0.0.1:x"], "no Spark master answers"),
        ("PrismRunner", [], "prism fetch build it"),
        ("PrismRunner", ["--prism_location=/no/prism"], "/no/prism"),
    ],
)
def test_what_is_missing_is_told(runner, given, told) -> None:
    with pytest.raises(UsageError, match=told):
        cluster_options(runner, given)


def test_a_cluster_without_taskmanagers(flink, monkeypatch) -> None:
    monkeypatch.setitem(OVERVIEW, "taskmanagers", 0)
    with pytest.raises(UsageError, match="no TaskManager"):
        cluster_options("FlinkRunner", [f"--flink_master={flink}"])


def test_without_java(machine, flink) -> None:
    os.unlink(machine / "bin" / "java")
    with pytest.raises(UsageError, match=r"FlinkRunner needs Java .*apt-get install"):
        cluster_options("FlinkRunner", [f"--flink_master={flink}"])


@pytest.mark.parametrize("program", [clusters.WORKER, clusters.JAVA])
def test_without_a_program_that_beam_is_to_start(machine, flink, program) -> None:
    os.unlink(machine / "bin" / program)
    with pytest.raises(UsageError, match=rf"{program} is missing: install this project there"):
        cluster_options("FlinkRunner", [f"--flink_master={flink}"])
