"""Java for Beam's job server, ``catalog-labels-java``: it ends with the program that started it.

    catalog-labels-java JAVA_ARGUMENT...

Without it the job server goes on when its client is killed, and with it, on Spark, the job: the
same command would then write beside it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Become Java."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel was asked
            sys.exit(1)
    os.execvp("java", ["java", *sys.argv[1:]])


if __name__ == "__main__":
    main()
