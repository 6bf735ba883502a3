"""Beam's side of pipeline.forkserver: FnApiRunner's workers come from a fork server.

Beam's own subprocess workers each import all of Beam and PyTorch for themselves.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability import local_job_service
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.transforms.environments import Environment, python_sdk_capabilities
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance
from google.protobuf import json_format, text_format

from pipeline.forkserver import ForkServer

URN = "catalog_labels:env:forked:v1"

# Workers ping every 20 s. A server that takes it for an attack closes the connection; the worker's
# log handler then opens another and, at the end of the run, waits for ever on the first.
_SERVER_OPTIONS = [
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", True),
]

# By the payload of their environments.
_servers: weakref.WeakValueDictionary[str, ForkServer] = weakref.WeakValueDictionary()


@Environment.register_urn(URN, bytes)
class ForkedEnvironment(Environment):  # type: ignore[misc]
    """Workers that are forked by a server of this process.

    Parameters
    ----------
    payload : str
        The server's, from :meth:`of`.
    """

    def __init__(
        self,
        payload: str,
        capabilities: Iterable[str] = (),
        artifacts: Iterable[Any] = (),
        resource_hints: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(capabilities, artifacts, resource_hints)
        self.payload = payload

    @classmethod
    def of(cls, server: ForkServer) -> ForkedEnvironment:
        """The environment of a server."""
        payload = str(id(server))
        _servers[payload] = server
        return cls(payload, python_sdk_capabilities())

    def to_runner_api_parameter(self, context: Any) -> tuple[str, bytes]:
        return URN, self.payload.encode()

    @staticmethod
    def from_runner_api_parameter(
        payload: bytes,
        capabilities: Iterable[str],
        artifacts: Iterable[Any],
        resource_hints: Mapping[str, bytes],
        context: Any,
    ) -> ForkedEnvironment:
        return ForkedEnvironment(payload.decode(), capabilities, artifacts, resource_hints)


@worker_handlers.WorkerHandler.register_environment(URN, bytes)
class _ForkedWorkerHandler(worker_handlers.GrpcWorkerHandler):  # type: ignore[misc]
    """As Beam's SubprocessSdkWorkerHandler, whose thread and message it has."""

    def __init__(self, payload: bytes, state: Any, provision_info: Any, grpc_server: Any) -> None:
        super().__init__(state, provision_info, grpc_server)
        self._server = _servers[payload.decode()]

    def start_worker(self) -> None:
        self._thread = threading.Thread(name="run_worker", target=self._run)
        self._thread.start()

    def stop_worker(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        logging_server = grpc.server(shared_unbounded_instance(), options=_SERVER_OPTIONS)
        port = logging_server.add_insecure_port("localhost:0")
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(
            local_job_service.BeamFnLoggingServicer(), logging_server
        )
        logging_server.start()
        options = self.provision_info.provision_info.pipeline_options
        try:
            status = self._server.run_worker(
                {
                    "CONTROL_API_SERVICE_DESCRIPTOR": _descriptor(self.control_address),
                    "LOGGING_API_SERVICE_DESCRIPTOR": _descriptor(f"localhost:{port}"),
                    "PIPELINE_OPTIONS": json_format.MessageToJson(options),
                    "WORKER_ID": self.worker_id,
                }
            )
        finally:
            logging_server.stop(0)
        if status:
            raise RuntimeError(f"Worker subprocess exited with return code {status}")


def _descriptor(address: str) -> str:
    text: str = text_format.MessageToString(endpoints_pb2.ApiServiceDescriptor(url=address))
    return text
