"""Peak memory of a program and all its processes.

    python -m benchmarks.memory COMMAND [ARGUMENT ...]

Samples the proportional set size (shared pages counted once) of the whole process tree from /proc,
so it needs Linux.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

_LEAST_PAUSE_SECONDS = 0.1
_PAUSE_PER_LOOK = 20  # the kernel walks all pages of a process: a look at large ones takes long


def _parents() -> dict[int, int]:
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = int(fields[1])
    return parents


def tree(root: int) -> set[int]:
    """A process and all below it."""
    parents = _parents()
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def pss_mib(pid: int) -> float:
    """Proportional set size of one process."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:  # it has ended
        pass
    return 0.0


def peak_mib(process: subprocess.Popen[str]) -> float:
    """Wait for a program; the peak of its processes together, MiB."""
    peak = 0.0
    while process.poll() is None:
        started = time.monotonic()
        peak = max(peak, sum(map(pss_mib, tree(process.pid))))
        look_seconds = time.monotonic() - started
        with contextlib.suppress(subprocess.TimeoutExpired):  # its end is noticed at once
            process.wait(max(_LEAST_PAUSE_SECONDS, _PAUSE_PER_LOOK * look_seconds))
    return peak


def main() -> None:
    started = time.monotonic()
    process = subprocess.Popen(sys.argv[1:], text=True)
    peak = peak_mib(process)
    print(f"peak {peak:,.0f} MiB, {time.monotonic() - started:.1f} s, status {process.returncode}")
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
