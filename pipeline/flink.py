"""What a Flink cluster is asked over its REST interface, and the jobs of ours that it runs."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterable
from typing import Any

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    StandardOptions,
)

from transforms.errors import ClusterError, UsageError

_ANSWER_SECONDS = 5.0
_CANCEL_SECONDS = 60.0
_OVER = frozenset({"FINISHED", "CANCELED", "FAILED"})


def ask(master: str, path: str, method: str = "GET") -> Any:
    """What the JobManager answers.

    Parameters
    ----------
    master : str
        HOST:PORT, or a URL, as Beam's ``--flink_master``.
    path : str
        Without the leading slash.
    method : str
        Of HTTP.

    Raises
    ------
    UsageError
        If there is no answer.
    """
    address = master if "://" in master else f"http://{master}"
    request = urllib.request.Request(f"{address.rstrip('/')}/{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=_ANSWER_SECONDS) as answer:
            return json.loads(answer.read() or b"null")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--flink_master={master}: no Flink cluster answers there ({error}); give the REST "
            "address of the JobManager"
        ) from error


def job_name(run_id: str) -> str:
    """What a run is called on its cluster: lower case, as Dataflow wants it."""
    return f"catalog-labels-{run_id.lower()}"


def jobs_at_work(master: str, names: set[str]) -> dict[str, str]:
    """Names, by id, of the jobs that have one of these names and are not over."""
    jobs = ask(master, "jobs/overview")["jobs"]
    return {
        job["jid"]: job["name"]
        for job in jobs
        if job["name"] in names and job["state"] not in _OVER
    }


def cancel_jobs(options: PipelineOptions, run_ids: Iterable[str]) -> list[str]:
    """Cancel the jobs of these runs and wait for their end.

    Neither Beam's job server nor Flink does, when an interrupted client asks for it or is gone.

    Returns
    -------
    list of str
        The names of those that were at work; of none where the runner is not Flink.

    Raises
    ------
    ClusterError
        If one does not end.
    UsageError
        If the cluster does not answer.
    """
    master = options.view_as(FlinkRunnerOptions).flink_master
    names = set(map(job_name, run_ids))
    if not names or options.view_as(StandardOptions).runner != "FlinkRunner" or master[:1] == "[":
        return []
    found = jobs_at_work(master, names)
    for job_id in found:
        ask(master, f"jobs/{job_id}", "PATCH")
    end = time.monotonic() + _CANCEL_SECONDS
    while still := jobs_at_work(master, names):
        if time.monotonic() > end:
            raise ClusterError(
                f"--flink_master={master}: job {', '.join(still)} was cancelled and does not end; "
                "end it there before the next run"
            )
        time.sleep(0.5)
    return sorted(set(found.values()))
