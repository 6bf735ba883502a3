"""The program that clusters start workers with, against a runner's provision service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

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

    def GetProvisionInfo(self, request, context):  # noqa: N802, gRPC's name
        self.asked = dict(context.invocation_metadata())["worker_id"]
        return provision.GetProvisionInfoResponse(info=info(control="localhost:7"))


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


def test_it_becomes_the_worker_and_prints_nothing_on_stdout(service, tmp_path) -> None:
    """With a stand-in for pipeline.worker, which says what it finds, far over a pipe's size."""
    package = tmp_path / "pipeline"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "worker.py").write_text(
        "import os, sys\nprint('x' * 200_000)\n"
        "names = 'WORKER_ID', 'OMP_NUM_THREADS', 'MALLOC_TRIM_THRESHOLD_'\n"
        "print(*(os.environ[name] for name in names), file=sys.stderr)\n"
    )
    boot = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pipeline.boot import main\n"
    code = f"{boot}import os; os.environ['PYTHONPATH'] = {str(tmp_path)!r}\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--id='5'", f"--provision_endpoint={service[1]}",
         "--control_endpoint=localhost:9", "--something_new=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=tmp_path.parent,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == ""
    assert done.stderr.split()[-3:] == ["5", "1", KEEP_FREED_MEMORY["MALLOC_TRIM_THRESHOLD_"]]
