"""Pools of real processes: parts as they are made, failures, deaths, and nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from pipeline.serving import pool
from pipeline.serving.answers import Problem, RefusedError
from pipeline.serving.pool import LostError, Pool, Worker
from tests.pipeline.serving import pool_jobs
from transforms.errors import Reason, StageError

PATIENCE_SECONDS = 60.0
CONTEXT = multiprocessing.get_context("spawn")


def start() -> Worker:
    return Worker(CONTEXT, pool_jobs.work)


def is_there(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def worker_threads() -> list[threading.Thread]:
    """Of other pools, too."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("worker")]


@asynccontextmanager
async def opened(size: int = 1, by: Callable[[], Worker] = start) -> AsyncIterator[Pool]:
    """A pool that leaves neither a process nor a thread."""
    made, threads = Pool(size, by), set(worker_threads())
    ever: set[int] = set()
    try:
        await made.open()
        ever |= set(made.process_ids)
        assert len(ever) == size
        yield made
    finally:
        ever |= set(made.process_ids)
        made.close()
        assert made.process_ids == []
        assert not any(map(is_there, ever))
        await until(lambda: set(worker_threads()) <= threads)


def run(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), PATIENCE_SECONDS))


async def parts_of(of: Pool, job: str, *arguments: Any) -> list[Any]:
    async with aclosing(of.run(job, *arguments)) as parts:
        return [part async for part in parts]


async def is_whole(of: Pool, size: int = 1) -> bool:
    """Whether as many workers as there should be have a job at once, and answer."""
    answers = await asyncio.gather(*(parts_of(of, "count", 2) for _ in range(size)))
    await until(lambda: len(of.process_ids) == size)
    return answers == [[0, 1]] * size


def test_one_worker_after_another_job(tmp_path):
    """Parts arrive as they are made, failures with their reasons, and the process stays."""

    async def story() -> None:
        async with opened() as workers:
            first = await workers.result("process_id")
            begun: list[bool] = []
            job = workers.run("step_by_step", str(tmp_path), 3, begun=lambda: begun.append(True))
            async with aclosing(job) as parts:
                for step in range(3):
                    (tmp_path / str(step)).touch()  # the worker goes on only now
                    assert await anext(parts) == step
                with pytest.raises(StopAsyncIteration):
                    await anext(parts)
            assert begun == [True]

            heard = []
            with pytest.raises(StageError) as failed:
                async with aclosing(workers.run("fail")) as parts:
                    async for part in parts:
                        heard.append(part)
            assert heard == [1]
            assert (failed.value.reason, failed.value.message) == (Reason.CORRUPT, "it is broken")

            with pytest.raises(RefusedError) as refused:
                await workers.result("refuse")
            assert refused.value.problem is Problem.TOO_LONG
            assert refused.value.message == "it has no end"

            (told,) = await workers.result("tell_of_errors")  # of one item among others
            assert isinstance(told, StageError)
            assert (told.reason, told.message) == (Reason.INVALID_SCORES, "they are no numbers")

            assert await workers.result("size_of", bytes(3_000_000)) == 3_000_000
            assert await workers.result("bytes_of", 3_000_000) == bytes(3_000_000)
            assert await workers.result("process_id") == first
            assert workers.restarts == 0

    run(story)


def test_jobs_wait_for_a_free_worker(tmp_path):
    async def story() -> None:
        async with opened() as workers:
            begun: list[str] = []

            async def step(name: str) -> list[Any]:
                folder = tmp_path / name
                folder.mkdir()
                job = workers.run("step_by_step", str(folder), 1, begun=lambda: begun.append(name))
                async with aclosing(job) as parts:
                    return [part async for part in parts]

            names = ["first", "second", "leaves", "last"]
            jobs = []
            for name in names:
                jobs.append(asyncio.ensure_future(step(name)))
                await asyncio.sleep(0.01)
            jobs[2].cancel()  # while it waits: nobody is harmed
            (tmp_path / "second" / "0").touch()  # its turn has not come
            await asyncio.sleep(0.1)
            assert begun == ["first"]
            (tmp_path / "first" / "0").touch()
            assert await jobs[0] == await jobs[1] == [0]
            (tmp_path / "last" / "0").touch()
            assert await jobs[3] == [0]
            assert begun == ["first", "second", "last"]
            assert workers.restarts == 0

    run(story)


def test_two_workers_work_at_once(tmp_path):
    async def story() -> None:
        async with opened(2) as workers:
            folders = [tmp_path / name for name in "ab"]
            async with (
                aclosing(workers.run("step_by_step", str(folders[0]), 1)) as one,
                aclosing(workers.run("step_by_step", str(folders[1]), 1)) as other,
            ):
                waiting = [asyncio.ensure_future(anext(parts)) for parts in (one, other)]
                for folder, part in zip(folders, waiting, strict=True):
                    folder.mkdir()
                    (folder / "0").touch()
                    assert await part == 0  # the other one has not been let go on: both are at it
                for parts in (one, other):
                    with pytest.raises(StopAsyncIteration):
                        await anext(parts)
            assert await is_whole(workers, 2)

    run(story)


@pytest.mark.parametrize("way", ["cancelled", "closed"])
def test_a_job_that_nobody_waits_for_is_ended_with_its_process(tmp_path, way):
    async def story() -> None:
        async with opened() as workers:
            file = tmp_path / "pid"
            if way == "cancelled":
                job = asyncio.ensure_future(parts_of(workers, "hang", str(file)))
                await until(lambda: file.exists() and file.read_text())
                job.cancel()
                await asyncio.wait([job])
                assert job.cancelled()
            else:
                async with aclosing(workers.run("hang", str(file))) as parts:
                    assert await anext(parts) == 1
            assert not is_there(int(file.read_text()))
            assert await is_whole(workers)
            assert workers.restarts == 1

    run(story)


def test_a_worker_that_is_killed_in_a_job(tmp_path):
    async def story() -> None:
        async with opened() as workers:
            heard = []
            with pytest.raises(LostError):
                async with aclosing(workers.run("die", 2)) as parts:
                    async for part in parts:
                        heard.append(part)
            assert heard == [0, 1]
            assert await is_whole(workers)

            with pytest.raises(StageError) as failed:
                await workers.result("die", 0)
            assert failed.value.reason is Reason.DECODER_CRASH
            assert await is_whole(workers)
            assert workers.restarts == 2

    run(story)


def test_a_worker_that_is_killed_while_it_is_free_fails_no_job():
    async def story() -> None:
        async with opened() as workers:
            first = await workers.result("process_id")
            os.kill(first, signal.SIGKILL)
            await until(lambda: not any(worker.is_alive for worker in workers._all))
            second = await workers.result("process_id")
            assert second != first
            assert workers.restarts == 1
            assert await is_whole(workers)

    run(story)


def test_a_worker_that_ended_is_none():
    async def story() -> None:
        async with opened() as made:
            made.replace_ended()
            assert (made.has_worker, made.restarts) == (True, 0)
            os.kill(made.process_ids[0], signal.SIGKILL)
            await until(lambda: not made.has_worker)
            made.replace_ended()
            assert not made.has_worker
            await until(lambda: made.has_worker)
            assert await is_whole(made)
            assert made.restarts == 1

    run(story)


def test_what_fails_to_start_is_tried_again(caplog, monkeypatch):
    monkeypatch.setattr(pool, "_RESTART_SECONDS", 0.01)
    errors = [OSError("no more processes"), EOFError(), ValueError("no model")]
    left = list(errors)
    opening = True

    def start_at_last() -> Worker:
        if left and not opening:
            raise left.pop(0)
        return start()

    async def story() -> None:
        nonlocal opening
        async with opened(by=start_at_last) as workers:
            opening = False
            with pytest.raises(StageError):
                await workers.result("die", 0)
            assert await is_whole(workers)
        assert left == []

    with caplog.at_level(logging.ERROR):
        run(story)
    told = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert told == errors


def test_what_is_wrong_at_the_beginning_is_told():
    def fails() -> Worker:
        raise ValueError("no such model")

    async def story() -> None:
        with pytest.raises(ValueError, match="no such model"):
            await Pool(2, fails).open()

    run(story)


def test_a_message_before_any_job():
    worker = Worker(CONTEXT, pool_jobs.work, "hello")
    assert worker.receive_now() == "hello"
    worker.end()
    worker.end()  # does no harm
    ends = Worker(CONTEXT, pool_jobs.end_at_once)
    with pytest.raises(EOFError):
        ends.receive_now()
    ends.end()


def test_closing_in_the_middle_of_jobs(tmp_path):
    async def story() -> None:
        async with opened(2) as workers:
            files = [tmp_path / name for name in "ab"]
            jobs = [asyncio.ensure_future(parts_of(workers, "hang", str(f))) for f in files]
            await until(lambda: all(file.exists() and file.read_text() for file in files))
            workers.close()
            for job in jobs:
                with pytest.raises(LostError):
                    await job
            assert not any(is_there(int(file.read_text())) for file in files)
            await asyncio.sleep(0.1)  # and no other one takes their place
            assert workers.process_ids == []

    run(story)


@pytest.mark.parametrize("leaves", [False, True])
def test_closing_while_a_worker_starts(leaves):
    """``leaves``: as does the one who waits for it."""
    go, started, threads = threading.Event(), [], set(worker_threads())

    def start_when_told() -> Worker:
        go.wait(PATIENCE_SECONDS)
        started.append(start())
        return started[0]

    async def story() -> None:
        workers = Pool(1, start_when_told)
        opening = asyncio.ensure_future(workers.open())
        await asyncio.sleep(0.05)
        if leaves:
            opening.cancel()
        workers.close()
        go.set()
        await asyncio.wait([opening])
        await until(lambda: started and not started[0].is_alive)
        assert not is_there(started[0].process_id)
        assert workers.process_ids == []

    run(story)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not set(worker_threads()) <= threads:
        assert time.monotonic() < deadline
        time.sleep(0.01)
