"""Memory of a process tree, against a /proc written by hand and against real memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.process_memory import resident_bytes, tree, tree_bytes

PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def proc(tmp_path) -> Path:
    """1 -> 10 -> 11 -> 12, 1 -> 20; 11's name has a bracket, 12 is another user's, 20 no child."""
    for pid, parent, pss_kib, pages in [
        (1, 0, 1, 1), (10, 1, 100, 999), (11, 10, 20, 999), (12, 11, None, 3), (20, 1, 5_000, 9),
    ]:  # fmt: skip
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_bytes(b"%d (\xe9 ) %d R 7) S %d 1 1\n" % (pid, pid, parent))
        (folder / "statm").write_text(f"9999 {pages} 1 1 0 1 0\n")
        if pss_kib is not None:
            (folder / "smaps_rollup").write_text(
                f"00-ff ---p 0 0 [rollup]\nRss:  99999 kB\nPss:  {pss_kib} kB\nPss_Anon: 1 kB\n"
            )
    (tmp_path / "meminfo").write_text("")
    return tmp_path


def test_all_below_a_process(proc):
    assert tree(10, proc) == {10, 11, 12}
    assert tree(1, proc) == {1, 10, 11, 12, 20}
    assert tree(20, proc) == {20}


def test_shared_pages_count_once_where_the_kernel_tells(proc):
    assert resident_bytes(10, proc) == 100 << 10
    assert resident_bytes(12, proc) == 3 * PAGE
    assert resident_bytes(99, proc) is None
    assert tree_bytes(10, proc) == (120 << 10) + 3 * PAGE


def test_no_linux(tmp_path):
    assert tree_bytes(10, tmp_path) is None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_child_that_takes_memory():
    code = "x = bytearray(b'x') * (200 << 20); print(flush=True); input()"
    before = tree_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    during = tree_bytes()
    child.communicate(b"\n")
    assert before is not None
    assert during is not None
    assert 200 << 20 <= during - before < 240 << 20
