"""Every command line in deploy/ is one that pipeline.main takes."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from apache_beam.runners.worker import worker_pool_main

from pipeline.options import parse_options
from pipeline.runner import _check_known, threads_per_worker
from tests.deploy import commands
from transforms.errors import UsageError

COMMANDS = {
    **commands.of_manifests(),
    "nightly_labels.py": commands.of_dag(),
    "template.sh": commands.of_template(),
    **commands.of_document(),
}
BASH = sorted(path for path in commands.DEPLOY.rglob("*.sh"))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_is_a_call_of_pipeline_main(name) -> None:
    config = parse_options(COMMANDS[name])
    _check_known(list(config.beam_args))
    assert config.inputs
    assert config.output


def test_they_are_all_there() -> None:
    runners = {name: parse_options(args).runner for name, args in COMMANDS.items()}
    assert runners["catalog-labels-on-flink/launcher"] == "FlinkRunner"
    assert runners["catalog-labels-on-spark/launcher"] == "SparkRunner"
    assert runners["template.sh"] == "DataflowRunner"
    assert "DataflowRunner" in {runners[name] for name in commands.of_document()}


@pytest.mark.parametrize("wrong", ["--no_such_option=1", "--top_k=0"])
def test_a_wrong_one_would_be_seen(wrong) -> None:
    with pytest.raises((UsageError, SystemExit)):  # argparse ends the process
        _check_known(list(parse_options([*commands.of_dag(), wrong]).beam_args))


def test_clusters_get_one_thread_for_each_worker() -> None:
    for args in commands.of_manifests().values():
        assert threads_per_worker(parse_options(args)) == 1


def test_worker_pools_are_started_as_beam_has_them(monkeypatch) -> None:
    """Beam's own parser reads each sidecar's arguments; the launchers ask at the same port."""
    started: list[dict[str, Any]] = []

    def start(**options: Any) -> tuple[str, grpc.Server]:
        started.append(options)
        return "", grpc.server(ThreadPoolExecutor(1))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(worker_pool_main.BeamFnExternalWorkerPoolServicer, "start", start)
    monkeypatch.setattr(worker_pool_main.time, "sleep", interrupt)
    pools = [c for _, c in commands.containers() if c["name"] == "sdk-workers"]
    assert len(pools) == 2
    for container in pools:
        assert container["command"] == ["python", "-m", worker_pool_main.__name__]
        worker_pool_main.main([worker_pool_main.__name__, *container["args"]])
    for options in started:
        assert options["use_process"]
        assert options["container_executable"] == "/opt/apache/beam/boot"
    asked = {arg for args in commands.of_manifests().values() for arg in args if "localhost" in arg}
    assert asked == {f"--environment_config=localhost:{options['port']}" for options in started}


@pytest.mark.parametrize("script", BASH, ids=lambda path: path.name)
def test_scripts_explain_themselves(script) -> None:
    for option, status in (("--help", 0), ("--nonsense", 2)):
        done = subprocess.run([script, option], capture_output=True, text=True, timeout=60)
        assert done.returncode == status
        assert re.match(r"Usage:\n", done.stdout or done.stderr)
