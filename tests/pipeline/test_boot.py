"""The program that clusters start workers with, against a runner's provision service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as provision
from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
from apache_beam.portability.api import endpoints_pb2
from google.protobuf import struct_pb2, text_format

from pipeline.boot import ask, worker_environment
from tests.catalog import ROOT
from transforms.malloc import KEEP_FREED_MEMORY

OPTIONS = {"beam:option:s3_endpoint_url:v1": "http://127.0.0.1:1"}


def info(**endpoints: str) -> provision.ProvisionInfo:
    options = struct_pb2.Struct()
    options.update(OPTIONS)
    found = provision.ProvisionInfo(pipeline_options=options, runner_capabilities=["a:1", "b:2"])
    for name, url in endpoints.items():
        getattr(found, f"{name}_endpoint").url = url
    return found


class Provision(provision_grpc.ProvisionServiceServicer):
    """Answers as a runner would; keeps who asked."""

    asked: str = ""
    siblings: tuple[str, ...] = ()

    def GetProvisionInfo(self, request, context):  # noqa: N802, gRPC's name
        self.asked = dict(context.invocation_metadata())["worker_id"]
        found = info(control="localhost:7")
        found.sibling_worker_ids.extend(self.siblings)
        return provision.GetProvisionInfoResponse(info=found)


@pytest.fixture
def service() -> Iterator[tuple[Provision, str]]:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    provision_service = Provision()
    provision_grpc.add_ProvisionServiceServicer_to_server(provision_service, server)
    server.start()
    yield provision_service, f"127.0.0.1:{port}"
    server.stop(0).wait()


def url(text: str) -> str:
    return text_format.Parse(text, endpoints_pb2.ApiServiceDescriptor()).url


def test_the_runner_is_asked_as_the_worker_that_it_started(service) -> None:
    servicer, address = service
    assert ask(address, "7-1").control_endpoint.url == "localhost:7"
    assert servicer.asked == "7-1"


def test_environment_of_a_worker() -> None:
    given = {"control": "given:1", "logging": "given:2"}
    made = worker_environment(info(control="told:1"), "3-2", given)
    assert made["WORKER_ID"] == "3-2"
    assert json.loads(made["PIPELINE_OPTIONS"]) == OPTIONS
    assert made["RUNNER_CAPABILITIES"].split() == ["a:1", "b:2"]
    assert url(made["CONTROL_API_SERVICE_DESCRIPTOR"]) == "told:1"
    assert url(made["LOGGING_API_SERVICE_DESCRIPTOR"]) == "given:2"
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in made


def boot(folder: Path, address: str, worker: str) -> subprocess.CompletedProcess[str]:
    """Run it with a stand-in for pipeline.worker."""
    package = folder / "pipeline"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(worker)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pipeline.boot import main\n"
        f"import os; os.environ['PYTHONPATH'] = {str(folder)!r}\nmain()"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "--id='5'", f"--provision_endpoint={address}",
         "--control_endpoint=localhost:9", "--something_new=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=folder.parent,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_several_workers_in_one_container_end_together(service, tmp_path) -> None:
    """One waits to be ended, one ends by itself when both are there."""
    service[0].siblings = ("6",)
    done = boot(
        tmp_path,
        service[1],
        "import os, pathlib, sys, time\n"
        f"folder, name = pathlib.Path({str(tmp_path)!r}), os.environ['WORKER_ID']\n"
        "(folder / name).write_text(str(os.getpid()))\n"
        "while not ((folder / '5').exists() and (folder / '6').exists()):\n    time.sleep(0.01)\n"
        "if name == '6':\n    sys.exit(7)\n"
        "time.sleep(60)\n",
    )
    assert done.returncode == 7, done.stderr[-500:]
    for name in ("5", "6"):
        wait_until_gone(int((tmp_path / name).read_text()))


def wait_until_gone(pid: int) -> None:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def test_it_becomes_the_worker_and_prints_nothing_on_stdout(service, tmp_path) -> None:
    """The stand-in says what it finds, far over a pipe's size."""
    done = boot(
        tmp_path,
        service[1],
        "import os, sys\nprint('x' * 200_000)\n"
        "names = 'WORKER_ID', 'OMP_NUM_THREADS', 'MALLOC_TRIM_THRESHOLD_'\n"
        "print(*(os.environ[name] for name in names), file=sys.stderr)\n",
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == ""
    assert done.stderr.split()[-3:] == ["5", "1", KEEP_FREED_MEMORY["MALLOC_TRIM_THRESHOLD_"]]
