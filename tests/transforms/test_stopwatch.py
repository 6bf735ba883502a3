from __future__ import annotations

import pickle
import threading
import time

import pytest

from transforms.stopwatch import StopWatch, untimed


def test_parts_add_up_and_are_taken_once():
    watch = StopWatch(iter([10.0, 10.5, 20.0, 22.0, 30.0, 31.0]).__next__)
    for part in ("mel", "mono", "mel"):
        with watch(part):
            pass
    assert watch.take() == {"mel": 1.5, "mono": 2.0}
    assert watch.take() == {}


def test_a_part_that_fails_is_counted_and_fails():
    watch = StopWatch()
    with pytest.raises(ZeroDivisionError), watch("mel"):
        raise ZeroDivisionError
    assert list(watch.take()) == ["mel"]


def test_what_was_measured_elsewhere_is_added():
    watch = StopWatch()
    watch.add("decode", 0.25)
    watch.add("decode", 0.5)
    assert watch.take() == {"decode": 0.75}


def test_threads_lose_nothing():
    watch = StopWatch()
    threads = [
        threading.Thread(target=lambda: [watch.add("write", 1.0) for _ in range(2_000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.take() == {"write": 8_000.0}


def test_travels_as_a_new_one():
    watch = StopWatch(time.process_time)
    watch.add("mel", 1.0)
    other = pickle.loads(pickle.dumps(watch))
    assert other.take() == {}
    with other("mel"):
        time.sleep(0.2)  # takes no processor time
    assert other.take()["mel"] < 0.2


def test_untimed_counts_nothing_and_hides_nothing():
    with pytest.raises(ZeroDivisionError), untimed("mel"):
        raise ZeroDivisionError
