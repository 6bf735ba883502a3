"""The service inside: limits, cache, sound for players, enhancement."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile as sf

from pipeline.serving.answers import Problem, Progress, Step
from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.enhanced import enhance_here
from tests.pipeline.serving.in_process import (
    MOST_SECONDS,
    PATIENCE_SECONDS,
    RATE,
    Tap,
    forget,
    go_on,
    problem_of,
    row_of,
    served,
    stop,
    upload,
    wav,
)
from transforms.errors import Reason, StageError

pytestmark = pytest.mark.slow


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
