"""What a cluster starts for each SDK worker: ``catalog-labels-worker``, for PROCESS and EXTERNAL.

    catalog-labels-worker --id=ID --provision_endpoint=HOST:PORT [--logging_endpoint=... ...]

It asks the runner for the job's options and addresses, as Beam's own container does, and becomes
pipeline.worker; or starts several, where the runner wants them in one container (Dataflow, one for
each core). Nothing is fetched: the project is installed on every machine of the cluster, and
jobs bring no code.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

from transforms.malloc import KEEP_FREED_MEMORY

_ANSWER_SECONDS = 60.0
_ENDPOINTS = ("control", "logging", "artifact", "status")
_WORKER = [sys.executable, "-m", "pipeline.worker"]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def main(argv: Sequence[str] | None = None) -> None:
    """Become the worker."""
    parser = argparse.ArgumentParser(
        prog="catalog-labels-worker",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--id", required=True, type=_unquoted)
    parser.add_argument(
        "--provision_endpoint", required=True, type=_unquoted, metavar="HOST:PORT"
    )
    for name in _ENDPOINTS:
        parser.add_argument(
            f"--{name}_endpoint", default="", type=_unquoted, metavar="HOST:PORT"
        )
    options, _ = parser.parse_known_args(argv)  # later versions of Beam may say more
    info = ask(options.provision_endpoint, options.id)
    given = {name: getattr(options, f"{name}_endpoint") for name in _ENDPOINTS}
    environments = [
        {**KEEP_FREED_MEMORY, **_ONE_THREAD, **os.environ,
         **worker_environment(info, worker_id, given)}
        for worker_id in (options.id, *info.sibling_worker_ids)
    ]  # fmt: skip
    os.dup2(2, 1)  # Beam's worker pool reads no stdout: 64 KB of it would stop the worker
    if len(environments) > 1:
        sys.exit(_run_together(environments))
    os.execve(sys.executable, _WORKER, environments[0])


def _run_together(environments: Sequence[Mapping[str, str]]) -> int:
    """Several workers, which end when one of them does: their container is then started anew.

    Returns
    -------
    int
        The exit status of the first that ended.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    workers: list[subprocess.Popen[bytes]] = []
    try:
        workers += [subprocess.Popen(_WORKER, env=environment) for environment in environments]
        _, status = os.wait()
        return abs(os.waitstatus_to_exitcode(status))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _unquoted(text: str) -> str:
    """Prism quotes as for a shell, but starts processes without one."""
    return text.strip("'")


def ask(address: str, worker_id: str) -> beam_provision_api_pb2.ProvisionInfo:
    """What the runner has for a worker: the options of the job, and its addresses."""
    with grpc.insecure_channel(address) as channel:
        stub = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        answer = stub.GetProvisionInfo(
            request,
            timeout=_ANSWER_SECONDS,
            wait_for_ready=True,
            metadata=[("worker_id", worker_id)],
        )
    return answer.info


def worker_environment(
    info: beam_provision_api_pb2.ProvisionInfo, worker_id: str, given: Mapping[str, str]
) -> dict[str, str]:
    """The environment variables in which Beam's SDK worker finds what it needs.

    Parameters
    ----------
    info : ProvisionInfo
    worker_id : str
    given : mapping
        Addresses by name (control, logging, status), empty where unknown; those of ``info``
        come first.
    """
    environment = {
        "WORKER_ID": worker_id,
        "PIPELINE_OPTIONS": json_format.MessageToJson(info.pipeline_options),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    for name in ("control", "logging", "status"):
        endpoint = getattr(info, f"{name}_endpoint")
        if not endpoint.url:
            endpoint = endpoints_pb2.ApiServiceDescriptor(url=given.get(name, ""))
        if endpoint.url:
            variable = f"{name.upper()}_API_SERVICE_DESCRIPTOR"
            environment[variable] = text_format.MessageToString(endpoint)
    return environment


if __name__ == "__main__":
    main()
