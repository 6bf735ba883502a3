"""What a machine has, and what a run takes of it: workers, threads, batch size.

Imports nothing but the standard library: the defaults in --help come from here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHARED_BYTES = 1 << 30
"""Memory that a run takes once: the launching process, the imports and weights that workers share.
Measured with a ViT-B/16, see docs/performance.md."""
WORKER_BYTES = 512 << 20
"""Memory of one more worker and its decoder, on a file of ordinary size."""
CPU_BATCH = 8
"""Windows per call on a CPU: more were measured to be slower, fewer hardly faster."""
GPU_BATCH = 64
IMAGE_BYTES_ON_GPU = 128 << 20
"""Room on a GPU for each image of a batch: generous, not measured."""

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def available_cores() -> int:
    """Cores that this process may use: its affinity, and its container's quota, rounded up."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS has no affinity
        cores = os.cpu_count() or 1
    quota = cpu_quota(_CGROUP)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(cgroup: Path) -> float | None:
    """Cores that a control group (version 2) allows; None without a limit."""
    words = _words(cgroup / "cpu.max")
    if len(words) != 2 or words[0] == "max":
        return None
    return int(words[0]) / int(words[1])


def available_bytes() -> int | None:
    """Memory that is free for a run, or None where the system does not tell."""
    found = [n for n in (free_bytes(_MEMINFO), memory_limit(_CGROUP)) if n is not None]
    return min(found, default=None)


def free_bytes(meminfo: Path) -> int | None:
    """``MemAvailable`` of Linux."""
    for line in _text(meminfo).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return None


def memory_limit(cgroup: Path) -> int | None:
    """What a control group (version 2) has left below its limit; None without a limit.

    Files in the cache that nobody has used lately are as good as free; the kubelet counts so too.
    """
    limit, used = _words(cgroup / "memory.max"), _words(cgroup / "memory.current")
    if not limit or not used or limit[0] == "max":
        return None
    stat = _words(cgroup / "memory.stat")
    details = dict(zip(stat[::2], stat[1::2], strict=False))
    idle_cache = int(details.get("inactive_file", 0))
    return max(0, int(limit[0]) - int(used[0]) + idle_cache)


def choose_workers(cores: int, free: int | None) -> int:
    """One worker process per core, or as many as the memory has room for.

    Parameters
    ----------
    cores : int
    free : int or None
        Bytes; None where nobody knows.
    """
    if free is None:
        return cores
    return max(1, min(cores, (free - SHARED_BYTES) // WORKER_BYTES))


def choose_threads(cores: int, workers: int) -> int:
    """PyTorch's threads in each worker process: all cores together, never more."""
    return max(1, cores // workers)


def choose_batch_size(gpu_bytes: int | None) -> int:
    """Windows per call of the model: by the memory of the GPU, or None for a CPU."""
    if gpu_bytes is None:
        return CPU_BATCH
    fits = max(1, gpu_bytes // IMAGE_BYTES_ON_GPU)
    return min(GPU_BATCH, 1 << (fits.bit_length() - 1))


def described(chosen: Mapping[str, Any]) -> str:
    """One line of what a run takes.

    Parameters
    ----------
    chosen : mapping
        See pipeline.run_record.resources.
    """
    workers, threads = chosen["workers"], chosen["threads_per_worker"]
    weights = f", weights {chosen['weights']}" if "weights" in chosen else ""
    free = "" if chosen["free_gib"] is None else f", {chosen['free_gib']} GiB free"
    if "batch_size" in chosen:
        line = f"batches of {chosen['batch_size']}, {chosen['precision']} on {chosen['device']}"
    else:
        line = f"{chosen['method']} on {chosen['device']}"
    if workers is None:
        return f"workers as {chosen['runner']} has them, {threads} thread each, {line}"
    return (
        f"{_number(workers, 'worker')} with {_number(threads, 'thread')} each "
        f"({_number(chosen['cores'], 'core')}{free}), {line}{weights}"
    )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or no such controller
        return ""
