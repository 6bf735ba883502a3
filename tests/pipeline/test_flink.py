"""Which jobs on a Flink cluster are cancelled; a small server stands in for the cluster."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import flink
from pipeline.flink import cancel_jobs, job_name
from transforms.errors import ClusterError, UsageError

RUN, OTHER = "20261121T200000Z-abc123", "20261121T200000Z-def456"


class Cluster(HTTPServer):
    """Jobs by id: (name, state); which were cancelled; how that is answered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs = {
            "1": (job_name(RUN), "RUNNING"),
            "2": (job_name(OTHER), "RUNNING"),
            "3": (job_name(RUN, "nightly"), "RESTARTING"),
            "4": (job_name(RUN), "FINISHED"),
            "5": ("somebody's", "RUNNING"),
        }
        self.cancelled: list[str] = []
        self.answer = 202
        self.ends = True

    @property
    def options(self) -> PipelineOptions:
        master = f"--flink_master=127.0.0.1:{self.server_port}"
        return PipelineOptions(["--runner=FlinkRunner", master])


class Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_GET(self) -> None:
        jobs = [{"jid": i, "name": n, "state": s} for i, (n, s) in self.server.jobs.items()]
        self.reply(200, {"jobs": jobs})

    def do_PATCH(self) -> None:
        job = self.path.rpartition("/")[2]
        self.server.cancelled.append(job)
        if self.server.ends:
            self.server.jobs[job] = (self.server.jobs[job][0], "CANCELED")
        self.reply(self.server.answer, {})

    def reply(self, status: int, content: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_only_the_run_s_own_jobs_are_cancelled_whatever_they_are_called(cluster) -> None:
    names = [job_name(RUN), job_name(RUN, "nightly")]
    assert cancel_jobs(cluster.options, [RUN]) == sorted(names)
    assert cluster.cancelled == ["1", "3"]


def test_nothing_to_cancel(cluster) -> None:
    assert cancel_jobs(cluster.options, []) == []
    assert cancel_jobs(cluster.options, ["20261121T200000Z-000000"]) == []
    assert cancel_jobs(PipelineOptions(["--runner=SparkRunner"]), [RUN]) == []
    assert cluster.cancelled == []


@pytest.mark.parametrize("status", [404, 409])
def test_a_job_that_ended_meanwhile_is_no_error(cluster, status) -> None:
    cluster.answer = status
    assert len(cancel_jobs(cluster.options, [RUN])) == 2


def test_a_job_that_does_not_end(cluster, monkeypatch) -> None:
    monkeypatch.setattr(flink, "_CANCEL_SECONDS", 0.1)
    monkeypatch.setattr(flink, "_LOOK_SECONDS", 0.01)
    cluster.ends = False
    with pytest.raises(ClusterError, match="job 1, 3 was cancelled and does not end"):
        cancel_jobs(cluster.options, [RUN])


def test_a_cluster_that_does_not_answer() -> None:
    options = PipelineOptions(["--runner=FlinkRunner", "--flink_master=127.0.0.1:1"])
    with pytest.raises(UsageError, match="no Flink cluster answers there"):
        cancel_jobs(options, [RUN])
