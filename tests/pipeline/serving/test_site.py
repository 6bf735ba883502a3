"""The whole site's own guards and counts, without workers."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from pipeline.serve_arguments import parse_options
from pipeline.serving.metrics import Metrics
from pipeline.serving.site import Site, guarded_site

MIB = 1 << 20


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("fine")(scope, receive, send)


def site(metrics: Metrics | None = None) -> TestClient:
    options = ["--model=unused", "--max_upload_mib=100", "--max_files=4"]
    made = Site(answer, has_page=True)
    made.page = answer
    app = guarded_site(made, parse_options(options), metrics or Metrics(), "default-src 'self'")
    return TestClient(app, base_url="http://localhost")


@pytest.mark.parametrize(
    ("path", "most_mib"),
    [
        ("/v1/labels", 101),
        ("/v1/labels:batch", 401),
        ("/gradio_api/upload?upload_id=1", 401),
        ("/gradio_api/queue/join?", 64),
        ("/gradio_api/run/predict", 64),
    ],
)
def test_what_is_read_into_memory_is_smaller_than_what_is_written_to_files(path, most_mib):
    def declared(size: int) -> int:
        return site().post(path, headers={"content-length": str(size)}).status_code

    assert declared((most_mib - 1) * MIB) == 200
    assert declared(most_mib * MIB + 1) == 413


def test_a_method_that_nobody_knows_is_no_new_time_series():
    metrics = Metrics()
    for method in ("GET", "BREW", "WHEN"):
        site(metrics).request(method, "/v1/models")

    def counted(method: str) -> Any:
        labels = {"route": "other", "method": method, "status": "200"}
        return metrics.registry.get_sample_value("catalog_labels_requests_total", labels)

    assert [counted(method) for method in ("GET", "other", "BREW")] == [1, 2, None]
