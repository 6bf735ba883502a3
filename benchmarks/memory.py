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

from pipeline.process_memory import tree_bytes

_LEAST_PAUSE_SECONDS = 0.1
_PAUSE_PER_LOOK = 20  # the kernel walks all pages of a process: a look at large ones takes long


def peak_mib(process: subprocess.Popen[str]) -> float:
    """Wait for a program; the peak of its processes together, MiB."""
    peak = 0.0
    while process.poll() is None:
        started = time.monotonic()
        peak = max(peak, (tree_bytes(process.pid) or 0) / (1 << 20))
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
