"""When memory counts as short, and that the watch goes on and ends."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.serving.memory import MemoryWatch, default_limit_bytes


@pytest.mark.parametrize(
    ("looks", "judged"),
    [
        ([99, 100, 101], [False, False, True]),
        ([101, 100, 95, 91, 90], [True, True, True, True, False]),
        ([101, 90, 95, 100, 101], [True, False, False, False, True]),
        ([101, None, 95], [True, False, False]),
    ],
)
def test_short_from_the_limit_until_well_below_it(looks, judged):
    watch = MemoryWatch(100)
    found = []
    for used in looks:
        watch.note(used)
        found.append(watch.is_over())
        assert watch.used_bytes == used
    assert found == judged


def test_without_a_limit_it_is_never_short():
    watch = MemoryWatch(None)
    watch.note(1 << 60)
    assert not watch.over


def test_each_change_is_logged_once(caplog):
    watch = MemoryWatch(100 << 20)
    for mib in (50, 120, 130, 95, 80, 70):
        watch.note(mib << 20)
    assert [record.getMessage() for record in caplog.records] == [
        "memory is short: 120 of 100 MiB are taken",
        "memory is free again: 80 of 100 MiB are taken",
    ]


def test_it_looks_again_and_again_even_after_a_look_that_failed():
    looks = iter([50, OSError("gone"), 150, 50])

    def read() -> int:
        look = next(looks, 50)
        if isinstance(look, OSError):
            raise look
        return look

    async def watched() -> list[bool]:
        changes, tasks = [False], asyncio.all_tasks()
        async with MemoryWatch(100, read, 0.001) as watch:
            while changes != [False, True, False]:
                await asyncio.sleep(0)
                if watch.over != changes[-1]:
                    changes.append(watch.over)
            assert asyncio.all_tasks() > tasks
        assert asyncio.all_tasks() == tasks
        return changes

    assert asyncio.run(asyncio.wait_for(watched(), 10)) == [False, True, False]


@pytest.mark.parametrize(
    ("used", "free", "limit"), [(1_000, 10_000, 9_000), (0, 100, 80), (1_000, 0, 1_000)]
)
def test_the_default_leaves_some_of_what_is_free(used, free, limit):
    assert default_limit_bytes(used, free) == limit
