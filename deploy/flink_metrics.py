#!/usr/bin/env python3
"""Counts and times of the jobs on a Flink cluster, while they run and afterwards, as JSON.

    deploy/flink_metrics.py [HOST:PORT] [JOB_ID...]

HOST:PORT is the REST address of the JobManager (default: 127.0.0.1:8081); without a JOB_ID all jobs
are told, newest last. Flink has Beam's metrics as an accumulator of the job; this program only
decodes and adds them: by stage, counters as numbers, and distributions as count, mean, min and max.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.request
from collections.abc import Iterator
from typing import Any

_COUNTER, _DISTRIBUTION = "beam:metrics:sum_int64:v1", "beam:metrics:distribution_int64:v1"
_USER = "beam:metric:user:"


def varints(payload: bytes) -> Iterator[int]:
    """Signed 64-bit numbers, seven bits a byte, lowest first: Beam's VarInt coder."""
    value = shift = 0
    for byte in payload:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value - (1 << 64) if value >> 63 else value
            value = shift = 0


def by_stage(infos: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add up Beam's monitoring infos: several steps of the graph may count for one stage."""
    stages: dict[str, dict[str, Any]] = {}
    for info in infos:
        if not info["urn"].startswith(_USER):
            continue
        labels, numbers = info["labels"], list(varints(base64.b64decode(info["payload"])))
        stage = stages.setdefault(labels["NAMESPACE"], {})
        if info["type"] == _COUNTER:
            stage[labels["NAME"]] = stage.get(labels["NAME"], 0) + numbers[0]
        elif info["type"] == _DISTRIBUTION:
            _add(stage, labels["NAME"], *numbers)
    return stages


def _add(stage: dict[str, Any], name: str, count: int, total: int, low: int, high: int) -> None:
    if not count:
        return
    if name in stage:
        before = stage[name]
        total += before["mean"] * before["count"]
        count += before["count"]
        low, high = min(low, before["min"]), max(high, before["max"])
    stage[name] = {"count": count, "mean": total / count, "min": low, "max": high}


def ask(master: str, path: str) -> Any:
    """What the JobManager answers."""
    with urllib.request.urlopen(f"http://{master}/{path}", timeout=10) as answer:
        return json.load(answer)


def job_metrics(master: str, job: str) -> dict[str, dict[str, Any]]:
    """The metrics of one job, by namespace and name."""
    infos: list[dict[str, Any]] = []
    for found in ask(master, f"jobs/{job}/accumulators")["user-task-accumulators"]:
        if found["name"] == "__metricscontainers":
            infos += json.loads(found["value"])["metrics"].get("attempted", [])
    return by_stage(infos)


def main() -> None:
    """Print every job that was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("master", nargs="?", default="127.0.0.1:8081", metavar="HOST:PORT")
    parser.add_argument("jobs", nargs="*", metavar="JOB_ID")
    given = parser.parse_args()
    try:
        listed = sorted(ask(given.master, "jobs/overview")["jobs"], key=lambda j: j["start-time"])
        told = [
            {
                "job": job["jid"],
                "state": job["state"],
                "seconds": job["duration"] / 1e3,
                "metrics": job_metrics(given.master, job["jid"]),
            }
            for job in listed
            if not given.jobs or job["jid"] in given.jobs
        ]
    except OSError as error:
        sys.exit(f"error: {given.master}: no Flink cluster answers there ({error})")
    print(json.dumps(told, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
