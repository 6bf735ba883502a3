"""Memory of a process and all below it, from Linux's /proc."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def tree(root: int, proc: Path = _PROC) -> set[int]:
    """A process and all below it."""
    parents = _parents(proc)
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def resident_bytes(pid: int, proc: Path = _PROC) -> int | None:
    """What a process takes of the memory.

    Parameters
    ----------
    pid : int
    proc : Path
        Of another machine in tests.

    Returns
    -------
    int or None
        Its proportional set size: a page that several share counts once for all of them; where
        the kernel does not tell that, its resident set. None if it has ended, or for no Linux.
    """
    try:
        for line in (proc / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:  # ended, another user's, or an old kernel
        pass
    try:
        pages = int((proc / str(pid) / "statm").read_text().split()[1])
    except (OSError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def tree_bytes(root: int | None = None, proc: Path = _PROC) -> int | None:
    """Memory of a process and all below it together; None where nobody tells.

    Parameters
    ----------
    root : int, optional
        This process when None.
    proc : Path
        Of another machine in tests.
    """
    pids = tree(os.getpid() if root is None else root, proc)
    told = [size for pid in pids if (size := resident_bytes(pid, proc)) is not None]
    return sum(told) if told else None


def _parents(proc: Path) -> dict[int, int]:
    parents = {}
    for status in proc.glob("[0-9]*/stat"):
        try:
            fields = status.read_bytes().rpartition(b")")[2].split()  # a name may be no UTF-8
        except OSError:  # it has ended
            continue
        parents[int(status.parent.name)] = int(fields[1])
    return parents
