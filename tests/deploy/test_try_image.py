"""The image, built from deploy/Dockerfile by buildah and started in a bare Debian; and the pools.

Building takes some minutes, most of them PyTorch's: TORCH_INDEX_URL of a CPU build saves half.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from tests.catalog import ROOT
from tests.deploy import commands
from tests.pipeline.real_clusters import free_ports, started
from tests.pipeline.shelf import Shelf, comparable, labelled_shelf

SCRIPT = commands.DEPLOY / "try_image.sh"
BUILD_SECONDS = 900


@pytest.mark.slow
@pytest.mark.cluster
def test_the_image_labels_in_a_bare_debian() -> None:
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"not root, or no {' and no '.join(missing) or 'root'} here")
    ports = free_ports(("POOL_PORT",))
    environment = os.environ | {name: str(port) for name, port in ports.items()}
    done = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True,
                          timeout=BUILD_SECONDS, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for name, rows in (("predictions", 20), ("failures", 2)):  # as pipeline.sample makes them
        assert f"{name}: {rows} rows, the same by a worker pool and alone" in done.stdout
    assert "nothing was written outside /tmp" in done.stdout


@pytest.fixture
def shelf(tmp_path, separated_checkpoint) -> Shelf:
    return labelled_shelf(tmp_path, separated_checkpoint)


@contextmanager
def worker_pool(port: int, log: Path) -> Iterator[None]:
    """The command of the manifests' sidecars, on another port, with this environment's worker."""
    (command, *_) = [c for _, c in commands.containers() if c["name"] == "sdk-workers"]
    worker = Path(sys.prefix) / "bin" / "catalog-labels-worker"
    if not worker.exists():
        pytest.skip(f"no {worker}: the project is not installed here")
    args = [f"--service_port={port}" if "service_port" in arg else
            f"--container_executable={worker}" for arg in command["args"]]  # fmt: skip
    with log.open("w") as stream:
        pool = subprocess.Popen([sys.executable, *command["command"][1:], *args], stderr=stream,
                                env=os.environ | {"PYTHONPATH": str(ROOT)},
                                start_new_session=True)  # fmt: skip
    try:
        yield
    finally:
        os.killpg(pool.pid, signal.SIGTERM)
        pool.wait(30)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize("name", ["flink", "spark"])
def test_a_cluster_labels_by_worker_pools(name, shelf, tmp_path, monkeypatch) -> None:
    """As in deploy/kubernetes: the manifests' own options but for addresses, a pool at localhost.

    One TaskManager, with two workers, or one executor: each numbers its workers from 1-1 on, so
    that a pool can serve only one, as in a pod.
    """
    monkeypatch.setenv("WORKERS", "1")
    ports = free_ports(("pool",))
    by_hand = ("--runner", "--flink_master", "--spark_master_url", "--environment_config",
               "--input", "--output")  # fmt: skip
    options = [arg for arg in commands.of_manifests()[f"catalog-labels-on-{name}/launcher"]
               if not arg.startswith(by_hand)]  # fmt: skip
    assert "--environment_type=EXTERNAL" in options
    options += ["--parallelism=2"] if name == "flink" else []
    output, log = tmp_path / "pooled", tmp_path / "pool.log"
    with started(name, tmp_path / "cluster") as cluster, worker_pool(ports["pool"], log):
        call = [sys.executable, "-m", "pipeline.main", *cluster.options, *options,
                f"--environment_config=localhost:{ports['pool']}", f"--input={shelf.music}",
                f"--output={output}", f"--model={shelf.model}", "--max_failure_rate=1"]  # fmt: skip
        done = subprocess.run(call, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, timeout=200, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert log.read_text().count("Starting worker with command") >= (2 if name == "flink" else 1)
    assert len(rows(output)) == 3
    assert rows(output) == rows(shelf.output)


def rows(output: Path) -> list[str]:
    found = ds.dataset(output / "predictions").to_table().to_pylist()
    return sorted(map(str, comparable(found)))
