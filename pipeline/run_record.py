"""What a run leaves beside its rows: ``runs/RUN_ID.json``, and the table at its end."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from pipeline.jobs import Job
from pipeline.resources import available_bytes, available_cores
from transforms.books import Books
from transforms.stage_metrics import BUSY_METRIC, FAILED_PREFIX, WORKER_PREFIX
from transforms.storage.durable import commit

_LIBRARIES = ("apache-beam", "torch", "transformers", "numpy", "scipy", "soxr", "soundfile", "av",
              "librosa", "noisereduce", "pyarrow", "pyloudnorm")  # fmt: skip
_OWN_NAMESPACES = ("ReadFiles", "Decode", "Preprocess", "MelSpectrogram", "RunInference", "RollUp",
                   "Enhance")  # fmt: skip
_BEAM_INFERENCE = ("BeamML_ViT", "BeamML_Sequence")  # of which a run has one


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _LIBRARIES
    }


def stage_timings(result: Any) -> dict[str, dict[str, float]]:
    """Counts and busy seconds by stage, from the metrics of a finished Beam run.

    ``RunInference`` gets the seconds inside the model from Beam's own inference metrics.
    """
    stages: dict[str, dict[str, float]] = {}
    found = result.metrics().query()
    for counter in found["counters"]:
        stage, _, _ = counter.key.metric.namespace.partition("/")
        own = counter.key.metric.namespace in _OWN_NAMESPACES
        if own or (stage in _OWN_NAMESPACES and counter.key.metric.name.startswith(FAILED_PREFIX)):
            counts = stages.setdefault(stage, {})  # to which several steps may add
            name = counter.key.metric.name
            counts[name] = counts.get(name, 0) + (counter.result or 0)  # Prism: None for 0
    for distribution in found["distributions"]:
        name, namespace = distribution.key.metric.name, distribution.key.metric.namespace
        if namespace in _OWN_NAMESPACES and name == BUSY_METRIC:
            seconds = distribution.result.sum / 1e6
            busy = stages.setdefault(namespace, {})
            busy["busy_seconds"] = round(busy.get("busy_seconds", 0) + seconds, 3)
        if namespace in _BEAM_INFERENCE and name == "inference_batch_latency_micro_secs":
            inference = stages.setdefault("RunInference", {})
            inference["batches"] = distribution.result.count
            inference["model_seconds"] = round(distribution.result.sum / 1e6, 3)
        if namespace in _BEAM_INFERENCE and name == "inference_request_batch_size":
            sizes = distribution.result
            inference = stages.setdefault("RunInference", {})
            inference |= {"windows_per_batch": round(sizes.mean, 2), "smallest_batch": sizes.min}
    return {stage: stages[stage] for stage in _OWN_NAMESPACES if stage in stages}


def worker_shares(result: Any) -> list[dict[str, Any]]:
    """What each worker process decoded: ``host``, ``parent_pid``, ``pid`` and its counters.

    The parent of a worker is the TaskManager, Spark executor or program that started it.
    """
    workers: dict[str, dict[str, Any]] = {}
    for counter in result.metrics().query()["counters"]:
        namespace, name = counter.key.metric.namespace, counter.key.metric.name
        if namespace.startswith(WORKER_PREFIX):
            _, host, parent, pid = namespace.split("/")
            worker = {"host": host, "parent_pid": int(parent), "pid": int(pid)}
            workers.setdefault(namespace, worker)[name] = counter.result or 0
    return [workers[namespace] for namespace in sorted(workers)]


def resources(job: Job) -> dict[str, Any]:
    """What the run takes of the machine, or asks its cluster for."""
    local, free = job.config.runner == "DirectRunner", available_bytes()
    return {
        "runner": job.config.runner,
        "workers": job.config.workers if local else None,
        "threads_per_worker": job.threads,
        "cores": available_cores(),
        "free_gib": None if free is None else round(free / 2**30, 1),
        **job.computing,
    }


_SECRET = re.compile(r"secret|token|password|key|credential", re.IGNORECASE)
_HIDDEN = "(hidden)"


def without_secrets(args: Sequence[str]) -> list[str]:
    """Beam's options, ``--name=value`` or ``--name value``, without the values of credentials."""
    shown: list[str] = []
    hide = False  # what follows
    for arg in args:
        name, equals, _ = arg.partition("=")
        is_option = arg.startswith("--")
        secret = is_option and _SECRET.search(name) is not None
        if secret and equals:
            shown.append(f"{name}={_HIDDEN}")
        else:
            shown.append(_HIDDEN if hide and not is_option else arg)
        hide = secret and not equals
    return shown


def run_json(
    job: Job,
    *,
    status: str,
    started_at: str,
    seconds: float,
    books: Books | None,
    timings: dict[str, dict[str, float]],
    workers: list[dict[str, Any]] | None = None,
    profile: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that runs/RUN_ID.json states."""
    config = dataclasses.asdict(job.config)
    config["beam_args"] = without_secrets(job.config.beam_args)
    return {
        "run_id": job.provenance.run_id,
        "status": status,
        "resumed_runs": list(job.resumed_runs),
        "started_at": started_at,
        "seconds": round(seconds, 3),
        "pipeline_version": job.provenance.pipeline_version,
        "versions": versions(),
        "config": config,
        "resources": resources(job),
        **job.recorded,
        "counts": None if books is None else books.told(job.results),
        "stages": timings,
        "workers": workers,
        "profile": profile,
    }


def write_json(path: str, content: dict[str, Any]) -> None:
    """Write a JSON file on any of Beam's file systems."""
    commit(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def summary(books: Books, seconds: float, output: str, done: str = "labelled") -> str:
    """The table at the end of a run."""
    lines = [f"{books.listed:>9,}  inputs in {seconds:.1f} s"]
    lines += [f"{books.labelled:>9,}  {done}"]
    lines += [f"{count:>13,}  {label}" for label, count in _most_first(books.labelled_by_label)]
    lines += [f"{books.failed:>9,}  failed"]
    lines += [f"{count:>13,}  {reason}" for reason, count in _most_first(books.failed_by_reason)]
    if books.skipped:
        lines += [f"{books.skipped:>9,}  skipped, unchanged since an earlier run"]
        skipped = _most_first(books.skipped_by_outcome)
        lines += [f"{count:>13,}  {outcome} then" for outcome, count in skipped]
    return "\n".join([*lines, f"results: {output}"])


def _most_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
