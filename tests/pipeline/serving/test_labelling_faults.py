"""Work that is given up, processes that are killed, and what is left of either."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from pipeline.serving.answers import Problem
from tests.audio_files import noise, write_soundfile
from tests.pipeline.serving.in_process import (
    PATIENCE_SECONDS,
    Tap,
    forget,
    go_on,
    is_idle,
    problem_of,
    row_of,
    served,
    stop,
    upload,
    wait_until,
    wav,
)
from transforms.errors import Reason, StageError, UsageError

pytestmark = [pytest.mark.slow, pytest.mark.fault]


def test_a_call_that_is_cancelled_frees_its_worker(service, tmp_path):
    paths = [wav(tmp_path, f"{number}.wav", 5.0, number) for number in range(4)]
    before = service.service.restarts
    stop(service.service._sound.process_ids)
    begun = []
    for path in paths[:2]:  # all there are
        tap = Tap()
        begun.append((service.begin(service.service.label(upload(path), told=tap)), tap))
    for future, tap in begun:
        assert tap.has_begun.wait(PATIENCE_SECONDS)
        future.cancel()
    assert service.label(paths[2]).prediction["duration_s"] == 5.0
    wait_until(lambda: is_idle(service))
    assert service.service.restarts == before + 2


def test_one_of_two_who_wait_leaves(service, tmp_path):
    path = wav(tmp_path, "a.wav", 5.0)
    before = service.service.restarts
    pids = service.service._sound.process_ids
    stop(pids)
    taps = [Tap(), Tap()]
    leaver, stayer = (service.begin(service.service.label(upload(path), told=tap)) for tap in taps)
    for tap in taps:
        assert tap.has_begun.wait(PATIENCE_SECONDS)
    leaver.cancel()
    go_on(pids)
    assert stayer.result(PATIENCE_SECONDS).prediction["duration_s"] == 5.0
    assert service.service.restarts == before


@pytest.mark.parametrize("is_sound", [True, False])
def test_who_leaves_takes_the_file_along_and_its_name(service, tmp_path, is_sound):
    """Two hand in the same bytes; the first one leaves before a worker has looked at them."""
    first = wav(tmp_path, "first.wav", 5.0)
    if not is_sound:
        first.write_bytes(b"no sound at all" * 99)
    second = Path(shutil.copy(first, tmp_path / "second.wav"))
    others = [wav(tmp_path, f"other {number}.wav", 5.0, 7 + number) for number in (1, 2)]
    pids = service.service._sound.process_ids
    stop(pids)
    busy = [Tap(), Tap()]
    for path, tap in zip(others, busy, strict=True):
        service.begin(service.service.label(upload(path), told=tap))
    for tap in busy:
        assert tap.has_begun.wait(PATIENCE_SECONDS)
    taps = [Tap(), Tap()]
    leaver, stayer = (
        service.begin(service.service.label(upload(path), told=tap))
        for path, tap in zip((first, second), taps, strict=True)
    )
    wait_until(lambda: all(tap.heard for tap in taps))
    leaver.cancel()
    first.unlink()
    go_on(pids)
    if is_sound:
        assert stayer.result(PATIENCE_SECONDS).prediction["uri"] == "second.wav"
        return
    with pytest.raises(StageError) as caught:
        stayer.result(PATIENCE_SECONDS)
    assert caught.value.reason is Reason.NOT_AUDIO
    assert "first.wav" not in caught.value.message


def test_out_of_time(service, tmp_path, monkeypatch):
    config = service.service._config
    limits = dataclasses.replace(config.limits, request_seconds=0.5)
    slow = dataclasses.replace(config, limits=limits)
    before = service.service.restarts
    path = wav(tmp_path, "a.wav", 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(service.service, "_config", slow)
        stop(service.service._sound.process_ids)
        calls = (service.service.label, service.service.enhance)
        for call in calls:
            assert problem_of(lambda call=call: service.do(call(upload(path)))) is (
                Problem.OUT_OF_TIME
            )
    wait_until(lambda: is_idle(service))
    assert service.service.restarts == before + 2
    assert list(tmp_path.iterdir()) == [path]  # drafts are gone, too
    assert service.label(path).prediction["duration_s"] == 5.0


def test_a_decoding_process_that_is_killed(service, tmp_path):
    path = wav(tmp_path, "a.wav", 5.0)
    before = service.service.restarts
    killed = service.service._sound.process_ids

    def kill() -> None:
        for pid in killed:
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(StageError) as caught:
        service.label(path, told=Tap(kill))
    assert caught.value.reason is Reason.DECODER_CRASH
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in killed))
    with ThreadPoolExecutor(2) as executor:
        both = [wav(tmp_path, f"{number}.wav", 5.0, number) for number in (1, 2)]
        assert len(list(executor.map(service.label, both))) == 2
    assert service.service.restarts == before + 2


def test_the_model_is_killed_while_it_computes(service, tmp_path):
    """The batch is computed again: nobody notices, and the row is the same."""
    path = wav(tmp_path, "a.wav", 9.0)
    expected = row_of(service.label(path))
    forget(service)
    before = service.service.restarts
    (pid,) = service.service._inference._model.process_ids
    stop([pid])
    future: Future[Any] = service.begin(service.service.label(upload(path)))
    wait_until(lambda: any(not one.is_idle for one in service.service._inference._model._all))
    os.kill(pid, signal.SIGKILL)
    assert row_of(future.result(PATIENCE_SECONDS)) == expected
    assert service.service.restarts == before + 1


def test_a_model_that_hangs_is_replaced(service, tmp_path, monkeypatch):
    config = service.service._config
    limits = dataclasses.replace(config.limits, request_seconds=1.0)
    path = wav(tmp_path, "a.wav", 5.0)
    before = service.service.restarts
    with monkeypatch.context() as patch:
        for of in (service.service, service.service._inference):
            patch.setattr(of, "_config", dataclasses.replace(config, limits=limits))
        stop(service.service._inference._model.process_ids)
        assert problem_of(lambda: service.label(path)) is Problem.OUT_OF_TIME
        wait_until(lambda: service.service.restarts > before)
    wait_until(lambda: is_idle(service))
    assert service.label(path).prediction["duration_s"] == 5.0


def test_it_is_not_able_without_a_process_with_the_model(service):
    async def is_able() -> bool:
        return service.service.is_able()

    assert service.do(is_able())
    (pid,) = service.service._inference._model.process_ids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not service.do(is_able()))
    wait_until(lambda: service.do(is_able()))  # which has let another one be started
    assert service.service._inference._model.process_ids != [pid]


def test_a_gpu_that_is_busy_is_not_waited_for(service, monkeypatch):
    """On any machine: only the worker knows that it has none."""
    (model, *others) = service.service.models
    on_gpu = dataclasses.replace(model, device="cuda")
    monkeypatch.setattr(type(service.service), "models", [on_gpu, *others])
    pids = service.service._inference._model.process_ids
    stop(pids)
    try:
        assert service.do(service.service.gpu_memory()) is None
        assert service.do(service.service.gpu_memory()) is None
    finally:
        go_on(pids)
    assert service.service._inference._model.process_ids == pids


def test_another_model_does_not_take_the_place_of_the_one_that_was_killed(
    fork_server, tiny_checkpoint, separated_checkpoint, tmp_path, monkeypatch
):
    model, path = tmp_path / "model", wav(tmp_path, "a.wav", 3.0)
    shutil.copytree(tiny_checkpoint, model)
    refused: list[str] = []
    with served(f"--model={model}") as service:
        note = service.service._inference._note

        def noted(announced: Any) -> None:
            try:
                note(announced)
            except UsageError as error:
                refused.append(str(error))
                raise

        monkeypatch.setattr(service.service._inference, "_note", noted)
        (pid,) = service.service._inference._model.process_ids
        shutil.rmtree(model)
        shutil.copytree(separated_checkpoint, model)
        os.kill(pid, signal.SIGKILL)
        future = service.begin(service.service.label(upload(path)))
        wait_until(lambda: refused)
        assert "another model lies there by now" in refused[0]
        assert not future.done()
        shutil.rmtree(model)
        shutil.copytree(tiny_checkpoint, model)
        assert future.result(PATIENCE_SECONDS).prediction["duration_s"] == 3.0


def test_a_copy_that_was_not_finished_is_no_copy(service, tmp_path):
    path = write_soundfile(tmp_path / "a.aiff", noise(30.0, 44_100, 2), 44_100, "AIFF", "PCM_16")
    future = service.begin(service.service.playable(upload(path), "pcm_s16"))
    wait_until(lambda: len(list(tmp_path.iterdir())) > 1)  # it is being written
    future.cancel()
    with pytest.raises(CancelledError):
        future.result()
    copy = service.do(service.service.playable(upload(path), "pcm_s16"))
    np.testing.assert_array_equal(
        sf.read(copy, dtype="int16")[0][: 20 * 44_100],
        sf.read(path, dtype="int16")[0][: 20 * 44_100],
    )


def test_nothing_is_left_behind(fork_server, tiny_checkpoint, tmp_path):
    """No process, decoders included, and no thread."""
    threads = set(threading.enumerate())
    with served(f"--model={tiny_checkpoint}") as service:
        service.label(wav(tmp_path, "a.wav", 3.0))
        of = service.service
        pools = (of._sound, of._inference._model, of._listener)
        workers = [pid for one in pools for pid in one.process_ids]
        assert len(workers) == 4
        family = [*workers, *(child for pid in workers for child in children(pid))]
        assert len(family) > len(workers)
    wait_until(lambda: not any(map(is_running, family)))
    wait_until(lambda: set(threading.enumerate()) <= threads)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
