"""The service inside: limits, cache, deaths of its processes, sound for players, enhancement."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from pipeline.serving.answers import Problem, Progress, RefusedError, Step
from pipeline.serving.cache import ResultCache
from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.enhanced import enhance_here, make_16khz_enhancer
from tests.pipeline.serving.in_process import PATIENCE_SECONDS, Served, served, upload
from transforms.errors import Reason, StageError

pytestmark = pytest.mark.slow

MOST_SECONDS, RATE = 20.0, 8_000


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory) -> Path:
    return make_16khz_enhancer(tmp_path_factory.mktemp("enhancer") / "small")


@pytest.fixture(scope="module")
def running(fork_server, tiny_checkpoint, enhancer) -> Iterator[Served]:
    options = (f"--model={tiny_checkpoint}", f"--enhancer={enhancer}", "--batch_size=2",
               f"--max_audio_seconds={MOST_SECONDS}")  # fmt: skip
    with served(*options) as service:
        yield service


@pytest.fixture
def service(running) -> Iterator[Served]:
    """Is whole and has nothing to do, before and after."""
    forget(running)
    yield running
    wait_until(lambda: is_idle(running))


def forget(service: Served) -> None:
    service.cache = service.service._cache = ResultCache(None)


def is_idle(service: Served) -> bool:
    of = service.service
    pools = ((of._sound, 2), (of._model, 1), (of._listener, 1))
    return all(pool._free.qsize() == len(pool.process_ids) == size for pool, size in pools)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wav(folder: Path, name: str, seconds: float, seed: int = 0, extra_frames: int = 0) -> Path:
    sound = noise(seconds + extra_frames / RATE, RATE, 1, seed)
    return write_soundfile(folder / name, sound, RATE, "WAV", "PCM_16")


def row_of(labelled: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    own = ("uri", "labelled_at", "run_id")
    rows = [dict(labelled.prediction), *map(dict, labelled.windows)]
    return [{k: v for k, v in row.items() if k not in own} for row in rows]


def problem_of(call: Callable[[], Any]) -> Problem:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.problem


class Tap:
    """Is told of the progress, and does something when the work has begun."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.heard: list[Progress] = []
        self.has_begun = threading.Event()
        self._then = then

    def __call__(self, progress: Progress) -> None:
        self.heard.append(progress)
        if progress == Progress(Step.DECODING):
            self._then()
            self.has_begun.set()


def stop(pids: list[int]) -> None:
    """Let processes do nothing; they can still be killed."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


def go_on(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_what_is_told_on_the_way(service, tmp_path):
    tap = Tap()
    service.label(wav(tmp_path, "a.wav", 9.0), told=tap)
    assert tap.heard == [
        Progress(Step.WAITING),
        Progress(Step.DECODING),
        *(Progress(Step.DECODING, seconds) for seconds in (4.0, 8.0, 9.0)),
        Progress(Step.LABELLING),
    ]


def test_a_row_names_who_asked(service, tmp_path):
    path = wav(tmp_path, "a.wav", 3.0)
    for uri in ("first/name.wav", "second.wav"):
        labelled = service.label(path, uri)
        assert labelled.prediction["uri"] == uri
        assert {window["uri"] for window in labelled.windows} == {uri}
        assert labelled.prediction["labelled_at"].tzinfo is not None


def test_exactly_the_limit_is_labelled_and_a_frame_more_is_refused(service, tmp_path):
    assert service.label(wav(tmp_path, "a.wav", MOST_SECONDS)).prediction["duration_s"] == 20.0
    longer = wav(tmp_path, "b.wav", MOST_SECONDS, extra_frames=1)
    assert problem_of(lambda: service.label(longer)) is Problem.TOO_LONG
    assert problem_of(lambda: service.do(service.service.enhance(upload(longer)))) is (
        Problem.TOO_LONG
    )
    assert service.service.restarts == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("options", [("--windows=middle",), ("--windows=3",), ("--windows=whole",)])
def test_the_limit_holds_where_only_parts_are_looked_at(
    fork_server, tiny_checkpoint, tmp_path, options
):
    with served(f"--model={tiny_checkpoint}", "--max_audio_seconds=20", *options) as service:
        assert service.label(wav(tmp_path, "a.wav", MOST_SECONDS)).prediction["duration_s"] == 20.0
        longer = wav(tmp_path, "b.wav", MOST_SECONDS, extra_frames=1)
        assert problem_of(lambda: service.label(longer)) is Problem.TOO_LONG


def test_a_front_end_that_stops_sooner_has_its_own_limit(fork_server, tiny_checkpoint, tmp_path):
    options = (f"--model={tiny_checkpoint}", "--max_audio_seconds=20", "--max_seconds=5")
    with served(*options) as service:
        row = service.label(wav(tmp_path, "a.wav", 30.0)).prediction
    assert (row["duration_s"], row["decode_warnings"]) == (5.0, ["too_long"])


def test_a_failure_names_the_file_as_it_was_handed_in(service, tmp_path):
    path = tmp_path / "0"
    path.touch()
    for call in (
        lambda: service.label(path, "Lied von der Glocke.mp3"),
        lambda: service.do(service.service.enhance(upload(path, "music/Lied von der Glocke.mp3"))),
    ):
        with pytest.raises(StageError) as caught:
            call()
        assert caught.value.reason is Reason.EMPTY_FILE
        assert caught.value.message == "Lied von der Glocke.mp3: 0 bytes; fetch it again"
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_upload_is_answered_from_the_cache(service, tmp_path):
    path = wav(tmp_path, "a.wav", 5.0)
    hits = service.counted("files_total", task="label", source="cache")
    first, second = service.label(path), service.label(path)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert row_of(first) == row_of(second)
    assert service.counted("files_total", task="label", source="cache") == hits + 1
    assert first.picture is second.picture is None

    drawn, again = service.label(path, picture=True), service.label(path, picture=True)
    assert (drawn.from_cache, again.from_cache) == (False, True)
    assert drawn.picture == again.picture
    assert drawn.picture.startswith(b"\x89PNG")
    assert row_of(drawn) == row_of(again) == row_of(first)
    assert service.label(path).from_cache


def test_failures_are_not_kept(service, tmp_path):
    (tmp_path / "text.mp3").write_text("This is not music.\n" * 100)
    for _ in range(2):
        with pytest.raises(StageError) as caught:
            service.label(tmp_path / "text.mp3")
        assert caught.value.reason is Reason.NOT_AUDIO


def test_answers_outlive_the_service_but_not_its_model(
    fork_server, tiny_checkpoint, separated_checkpoint, tmp_path
):
    path, kept = wav(tmp_path, "a.wav", 5.0), tmp_path / "kept"
    with served(f"--model={tiny_checkpoint}", cache=kept) as service:
        first = service.label(path)
    with served(f"--model={separated_checkpoint}", cache=kept) as service:
        other = service.label(path)
        assert not other.from_cache
        assert other.prediction["scores"] != first.prediction["scores"]
    for change in ("--hop_seconds=1", "--top_k=1", "--min_seconds=1", "--embeddings"):
        with served(f"--model={tiny_checkpoint}", change, cache=kept) as service:
            assert not service.label(path).from_cache
    with served(f"--model={tiny_checkpoint}", cache=kept) as service:
        stop(service.service._sound.process_ids)  # nobody decodes
        again = service.label(path)
        go_on(service.service._sound.process_ids)
    assert again.from_cache
    assert row_of(again) == row_of(first)
    assert again.prediction["run_id"] != first.prediction["run_id"]


def test_equal_uploads_at_once_are_decoded_once(service, tmp_path, monkeypatch):
    paths = [wav(tmp_path, f"{number}.wav", 5.0) for number in range(5)]
    jobs: list[str] = []
    run = service.service._sound.run
    monkeypatch.setattr(
        service.service._sound, "run", lambda job, *a, **k: jobs.append(job) or run(job, *a, **k)
    )
    pids = service.service._sound.process_ids
    stop(pids)
    futures = [service.begin(service.service.label(upload(path))) for path in paths]
    time.sleep(0.2)
    go_on(pids)
    answers = [future.result(PATIENCE_SECONDS) for future in futures]
    assert jobs == ["label"]
    assert [one.prediction["uri"] for one in answers] == [path.name for path in paths]
    assert all(row_of(one) == row_of(answers[0]) for one in answers)


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
    (pid,) = service.service._model.process_ids
    stop([pid])
    future: Future[Any] = service.begin(service.service.label(upload(path)))
    wait_until(lambda: any(not one.is_idle for one in service.service._model._all))
    os.kill(pid, signal.SIGKILL)
    assert row_of(future.result(PATIENCE_SECONDS)) == expected
    assert service.service.restarts == before + 1


def test_another_model_does_not_take_the_place_of_the_one_that_was_killed(
    fork_server, tiny_checkpoint, separated_checkpoint, tmp_path, monkeypatch
):
    model, path = tmp_path / "model", wav(tmp_path, "a.wav", 3.0)
    shutil.copytree(tiny_checkpoint, model)
    with served(f"--model={model}", "--request_seconds=20") as service:
        (pid,) = service.service._model.process_ids
        shutil.rmtree(model)
        shutil.copytree(separated_checkpoint, model)
        os.kill(pid, signal.SIGKILL)
        future = service.begin(service.service.label(upload(path)))
        wait_until(lambda: service.service.restarts == 1)
        time.sleep(6)
        assert not future.done()
        shutil.rmtree(model)
        shutil.copytree(tiny_checkpoint, model)
        assert future.result(PATIENCE_SECONDS).prediction["duration_s"] == 3.0


def test_many_different_files_at_once(service, tmp_path):
    paths = [wav(tmp_path, f"{number}.wav", 1.0 + number / 3, number) for number in range(12)]
    alone = [row_of(service.label(path)) for path in paths]
    forget(service)
    with ThreadPoolExecutor(len(paths)) as executor:
        assert [row_of(one) for one in executor.map(service.label, paths)] == alone


def test_an_enhanced_file_is_that_of_the_batch_program(service, enhancer, tmp_path):
    music, output = tmp_path / "music", tmp_path / "out"
    music.mkdir()
    sound = sine(3.0, 22_050, 2) + noise(3.0, 22_050, 2, 1) + np.float32(0.01)
    path = write_soundfile(music / "a.wav", sound, 22_050, "WAV", "PCM_16")
    run = enhance_here(output, f"--model={enhancer}", f"--input={path}")
    assert run.status == 0
    (expected,) = run.rows("enhanced")
    found = service.do(service.service.enhance(upload(path)))
    assert hashlib.sha256(found.path.read_bytes()).hexdigest() == expected["output_sha256"]
    for name, value in found.row.items():
        if name != "output":
            assert value == expected[name], name
    assert {entry.name for entry in music.iterdir()} == {"a.wav", found.path.name}


def test_what_browsers_do_not_play_is_copied(service, tmp_path):
    sound = sine(2.0, 44_100, 2) + noise(2.0, 44_100, 2)
    aiff = write_soundfile(tmp_path / "a.aiff", sound, 44_100, "AIFF", "PCM_16")
    alac = write_pyav(tmp_path / "b.m4a", sound, 44_100, "mp4", "alac")
    for path, codec in ((aiff, "pcm_s16"), (alac, "alac")):
        copy = service.do(service.service.playable(upload(path), codec))
        assert sf.info(copy).format == "FLAC"
        samples, rate = sf.read(copy, dtype="int16")
        assert rate == 44_100
        if path is aiff:
            expected, _ = sf.read(path, dtype="int16")
            np.testing.assert_array_equal(samples, expected)
        else:
            assert len(samples) == pytest.approx(88_200, abs=4_096)
            np.testing.assert_allclose(samples[:80_000] / 32_768, sound[:80_000], atol=1e-4)
        changed = copy.stat().st_mtime_ns
        assert service.do(service.service.playable(upload(path), codec)) == copy
        assert copy.stat().st_mtime_ns == changed  # it is there already
    six = write_soundfile(tmp_path / "c.wav", noise(1.0, RATE, 6), RATE, "WAV", "PCM_24")
    copy = service.do(service.service.playable(upload(six), "pcm_s24"))
    samples, _ = sf.read(copy)
    np.testing.assert_allclose(samples, sf.read(six)[0].mean(axis=1), atol=1 / 32_768)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.aiff", "b.m4a", "c.wav", "a.aiff-copy.flac", "b.m4a-copy.flac",
                     "c.wav-copy.flac"}  # fmt: skip


def test_what_browsers_play_is_played_as_it_is(service, tmp_path):
    path = wav(tmp_path, "a.wav", 1.0)
    assert service.do(service.service.playable(upload(path), "pcm_s16")) == path
    assert list(tmp_path.iterdir()) == [path]


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


def test_nothing_is_left_behind(fork_server, tiny_checkpoint, tmp_path, monkeypatch):
    """No process, decoders included, and no thread."""
    threads = set(threading.enumerate())
    with served(f"--model={tiny_checkpoint}") as service:
        service.label(wav(tmp_path, "a.wav", 3.0))
        of = service.service
        workers = [*of._sound.process_ids, *of._model.process_ids, *of._listener.process_ids]
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
