"""Progress: the line's words, the choice of a style, and the thread's end."""

from __future__ import annotations

import io
import threading

import pytest

from pipeline import progress
from pipeline.progress import Progress


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ((50, 2, 200, 100.0), "50 of 200 tracks, 2 failed, 0.50 tracks/s, 01:40 gone, 05:00 left"),
        ((0, 0, 200, 10.0), "0 of 200 tracks, 0 failed, 0.00 tracks/s, 00:10 gone, ? left"),
        ((3, 3, 3, 1.5), "3 of 3 tracks, 3 failed, 2.00 tracks/s, 00:01 gone, 00:00 left"),
        ((9, 0, 3, 1.0), "9 of 3 tracks, 0 failed, 9.00 tracks/s, 00:01 gone, ? left"),
        ((1, 0, 7201, 1.0), "1 of 7201 tracks, 0 failed, 1.00 tracks/s, 00:01 gone, 2:00:00 left"),
    ],
)
def test_line(numbers, line):
    assert Progress.line(*numbers) == line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Counter:
    """Counts that grow with every look; ``seen`` is set at the third one."""

    def __init__(self) -> None:
        self.looks = 0
        self.seen = threading.Event()

    def __call__(self) -> dict[str, int]:
        self.looks += 1
        if self.looks >= 3:
            self.seen.set()
        return {"tracks": min(2 * self.looks, 9), "failures": 1, "listed": 15, "skipped": 5}


def show(monkeypatch, stream, style, looks=True):
    """What is written while three looks are taken."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_LINES_INTERVAL_S", 0.001)
    monkeypatch.setattr(progress, "_BAR_INTERVAL_S", 0.001)
    count = Counter()
    with Progress(count, style) as shown:
        if looks:
            assert count.seen.wait(timeout=60)
    assert not shown._thread.is_alive()
    assert threading.active_count() == len(threading.enumerate())
    assert bool(count.looks) == looks
    return stream.getvalue()


@pytest.mark.parametrize("style", ["auto", "lines"])
def test_plain_lines_where_there_is_no_terminal(monkeypatch, style):
    lines = show(monkeypatch, io.StringIO(), style).splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("3 of 10 tracks, 1 failed, ")
    assert lines[2].startswith("7 of 10 tracks, 1 failed, ")


def test_lines_on_a_terminal_when_asked_for(monkeypatch):
    assert "3 of 10 tracks, 1 failed, " in show(monkeypatch, Terminal(), "lines")


@pytest.mark.parametrize("style", ["auto", "bar"])
def test_a_bar_on_a_terminal(monkeypatch, style):
    written = show(monkeypatch, Terminal(), style)
    assert "labelling" in written
    assert "failed=1" in written
    assert "skipped=5" in written
    assert "/10" in written  # listed, without what is skipped


def test_nothing_counted_yet(monkeypatch):
    """Before the inputs are listed the journal has no entries at all."""
    stream, looked = io.StringIO(), threading.Event()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "_LINES_INTERVAL_S", 0.001)

    def count() -> dict[str, int]:
        if stream.getvalue():
            looked.set()
        return {}

    with Progress(count, "lines"):
        assert looked.wait(timeout=60)
    assert stream.getvalue().startswith("0 of 0 tracks, 0 failed, 0.00 tracks/s")


def test_none_is_silent_and_starts_no_thread(monkeypatch):
    before = threading.active_count()
    assert show(monkeypatch, Terminal(), "none", looks=False) == ""
    assert threading.active_count() == before


def test_the_thread_ends_with_an_error_of_the_run(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    shown = Progress(Counter(), "lines")
    with pytest.raises(ZeroDivisionError), shown:
        raise ZeroDivisionError
    assert not shown._thread.is_alive()
