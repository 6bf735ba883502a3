"""What a Flink cluster is asked over its REST interface, and the jobs of ours that it runs."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.error import HTTPError

from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    PipelineOptions,
    StandardOptions,
)

from transforms.errors import ClusterError, UsageError

_ANSWER_SECONDS = 5.0
_CANCEL_SECONDS = 60.0
_LOOK_SECONDS = 0.5
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


def job_name(run_id: str, given: str | None = None) -> str:
    """What a run is called on its cluster: lower case, as Dataflow wants it."""
    return f"{given or 'catalog-labels'}-{run_id.lower()}"


def jobs_at_work(master: str, run_ids: Iterable[str]) -> dict[str, str]:
    """Names, by id, of the jobs of these runs that are not over."""
    ends = tuple(f"-{run_id.lower()}" for run_id in run_ids)
    return {
        job["jid"]: job["name"]
        for job in ask(master, "jobs/overview")["jobs"]
        if job["name"].endswith(ends) and job["state"] not in _OVER
    }


def cancel_jobs(options: PipelineOptions, run_ids: Sequence[str]) -> list[str]:
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
    on_flink = options.view_as(StandardOptions).runner == "FlinkRunner" and master[:1] != "["
    if not run_ids or not on_flink:
        return []
    found = jobs_at_work(master, run_ids)
    for job_id in found:
        _cancel(master, job_id)
    end = time.monotonic() + _CANCEL_SECONDS
    while still := jobs_at_work(master, run_ids):
        if time.monotonic() > end:
            raise ClusterError(
                f"--flink_master={master}: job {', '.join(still)} was cancelled and does not end; "
                "end it there before the next run"
            )
        time.sleep(_LOOK_SECONDS)
    return sorted(set(found.values()))


def _cancel(master: str, job_id: str) -> None:
    try:
        ask(master, f"jobs/{job_id}", "PATCH")
    except UsageError as error:
        if not isinstance(error.__cause__, HTTPError):
            raise
        # It has ended meanwhile: Flink answers 404 or 409.
