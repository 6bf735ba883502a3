"""Where the time of a run went: its core seconds by part, from the metrics of its stages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from transforms.inference import BATCH_ROWS, BATCH_WAIT
from transforms.stage_metrics import PROFILE

PARTS = {
    "read": "fetch and hash the files",
    "decode": "bytes to samples, in the decoder's process",
    "mono": "channels to one",
    "transfer": "samples from the decoder's process",
    "features": "loudness to chroma, their own decoding included",
    "resample": "to the front end's rate",
    "clean": "DC offset, denoising, trimming, normalising",
    "mel": "log-mel spectrogram",
    "resize": "to the model's image",
    "inference": "the model",
    "write": "rows made durable",
}
"""The parts of labelling, in the order of its graph. ``rest`` is added: start-up, Beam, waiting,
publishing."""


def profile(
    result: Any,
    *,
    seconds: float,
    cores: int,
    threads: int,
    model_seconds: float,
    parts: Mapping[str, str] = PARTS,
) -> dict[str, Any]:
    """Core seconds by part, and their shares of all that there were.

    Parameters
    ----------
    result : beam.runners.runner.PipelineResult
    seconds : float
        From the graph's start to its end.
    cores : int
        Busy at most.
    threads : int
        Cores that the model computes on.
    model_seconds : float
        Inside the model, over all workers.
    parts : mapping
        Which parts there are, with their meanings.

    Returns
    -------
    dict
        ``core_seconds``; ``parts``: by name ``seconds`` and ``share``; ``batch_wait_seconds``: of
        a window on average, until its batch was full; ``padding_share``: rows of the model's
        batches that were no windows, None where there was no batch.
    """
    found = result.metrics().query()
    spent: Counter[str] = Counter()  # several steps may count under one name
    for counter in _ours(found["counters"]):
        spent[counter.key.metric.name] += counter.result
    took = {name: spent.get(name, 0) / 1e6 for name in parts}
    if "inference" in took:
        took["inference"] = model_seconds * threads
    core_seconds = seconds * cores
    took["rest"] = core_seconds - sum(took.values())
    waits = next(iter(_ours(found["distributions"], BATCH_WAIT)), None)
    rows, windows = spent.get(BATCH_ROWS, 0), _count(found, "RunInference", "elements_in")
    return {
        "core_seconds": round(core_seconds, 3),
        "parts": {
            name: {"seconds": round(value, 3), "share": round(value / core_seconds, 4)}
            for name, value in took.items()
        },
        "batch_wait_seconds": None if waits is None else round(waits.result.mean / 1e6, 3),
        "padding_share": round(1 - windows / rows, 4) if rows else None,
    }


def table(found: dict[str, Any], parts: Mapping[str, str] = PARTS) -> str:
    """What :func:`profile` found, as lines to read."""
    lines = [f"{'part':<10} {'core s':>10} {'share':>7}"]
    meanings = {**parts, "rest": "start-up, Beam, waiting, publishing"}
    for name, part in found["parts"].items():
        lines.append(f"{name:<10} {part['seconds']:10.2f} {part['share']:7.1%}  {meanings[name]}")
    if found["padding_share"] is not None:
        lines.append(
            f"a window waited {found['batch_wait_seconds']:.2f} s for its batch; "
            f"{found['padding_share']:.1%} of the batches' rows were filling"
        )
    return "\n".join(lines)


def _ours(found: list[Any], name: str | None = None) -> list[Any]:
    keys = [(item, item.key.metric) for item in found]
    return [i for i, key in keys if key.namespace == PROFILE and name in (None, key.name)]


def _count(found: dict[str, list[Any]], namespace: str, name: str) -> int:
    wanted = (namespace, name)
    return sum(
        item.result
        for item in found["counters"]
        if (item.key.metric.namespace, item.key.metric.name) == wanted
    )
