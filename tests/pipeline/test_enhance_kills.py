"""Enhancing that is killed and gone on with: rows and files are those of one quiet run."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from pathlib import Path

import pytest
import soundfile as sf

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import Run
from tests.enhanced import (
    PROGRAM,
    Rows,
    check_files,
    enhance_here,
    files,
    inside,
    make_16khz_enhancer,
    rows,
)
from tests.pipeline.processes import Forked, Started, segments, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.slow]

TRACKS, RATE_HZ = 24, 44_100
LISTINGS = TRACKS + 4


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list[str]:
    """Tracks of 3 to 20 s, a copy, a manifest that names one twice, two broken files."""
    folder = tmp_path_factory.mktemp("kills")
    music = folder / "music"
    music.mkdir()
    for number in range(TRACKS):
        seconds = (3.0, 8.0, 20.0)[number % 3]
        sound = sine(seconds, RATE_HZ, 2, 100.0 + 40 * number) + noise(seconds, RATE_HZ, 2, number)
        write_soundfile(music / f"{number:02}.flac", sound, RATE_HZ, "FLAC", "PCM_16")
    shutil.copyfile(music / "02.flac", music / "copy.flac")
    (music / "empty.mp3").write_bytes(b"")
    (music / "text.mp3").write_text("no music")
    listed = [{"uri": "music/05.flac", "track_id": f"id {n}", "year": 1960 + n} for n in range(2)]
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in listed))
    model = make_16khz_enhancer(folder / "model")
    return [f"--input={music}", f"--input={manifest}", f"--model={model}", "--progress=none"]


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory) -> tuple[Rows, Rows, dict[str, str]]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run = enhance_here(output, *options)
    assert run.record["counts"]["listed"] == LISTINGS
    check_files(output)
    return inside(output, rows(output)), rows(output, "failures"), files(output)


def check_the_sum(output: Path, undisturbed: tuple[Rows, Rows, dict[str, str]]) -> None:
    """All runs together are one, and nothing half or foreign lies about."""
    enhanced, failed, sound = undisturbed
    assert rows(output, "failures") == failed
    assert inside(output, rows(output)) == enhanced
    assert files(output) == sound
    shutil.rmtree(
        output / "journal", ignore_errors=True
    )  # its own may be left, where a kill came behind the end
    check_files(output)
    *earlier, last = Run(output, 0, "", "").records
    assert {record["status"] for record in earlier} <= {"recovered"}
    assert last["status"] == "done"
    counts = last["counts"]
    assert counts["listed"] == LISTINGS
    assert counts["listed"] == counts["enhanced"] + counts["failed"] + counts["skipped"]
    # One that was killed before its first record does not say what it was about to do.
    saved = {kind: sum(record["counts"].get(kind, 0) for record in earlier)
             for kind in ("enhanced", "failed")}  # fmt: skip
    assert counts["skipped_by_outcome"] == {kind: n for kind, n in saved.items() if n}


def is_done(output: Path) -> bool:
    return any(record["status"] == "done" for record in Run(output, 0, "", "").records)


def new_segment(output: Path, before: set[str]) -> bool:
    return bool(set(segments(output)) - before)


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments(options, undisturbed, tmp_path, seed):
    rng, output, killed = random.Random(seed), tmp_path / "out", 0
    for number in range(4):
        with contextlib.closing(Forked(output, *options, program=PROGRAM)) as run:
            before = set(segments(output))
            if number:
                wait_until(lambda: run.is_over or new_segment(output, before), "a segment")  # noqa: B023
            time.sleep(rng.uniform(0.0, 1.0))
            if run.is_over:
                break
            run.kill_all()
            assert run.wait() == -9
        killed += 1
        if is_done(output):
            break
    assert killed
    if not is_done(output):
        with contextlib.closing(Forked(output, *options, program=PROGRAM)) as run:
            assert run.wait() == 0, run.stderr
    check_the_sum(output, undisturbed)


def test_kills_of_two_workers_and_of_one_of_them(options, undisturbed, tmp_path):
    output = tmp_path / "out"
    for kill, status in (("kill_all", -9), ("kill_worker", 1)):
        before = set(segments(output))
        with contextlib.closing(Started(output, *options, "--workers=2", program=PROGRAM)) as run:
            wait_until(lambda: run.is_over or new_segment(output, before), "a segment")  # noqa: B023
            assert not run.is_over, run.stderr
            getattr(run, kill)()
            assert run.wait() == status
            wait_until(lambda: not run.family(), "the end of workers and decoders")
    with contextlib.closing(Started(output, *options, "--workers=2", program=PROGRAM)) as run:
        assert run.wait() == 0, run.stderr
        assert run.stderr[0].startswith("going on from ")
    check_the_sum(output, undisturbed)


@pytest.mark.parametrize("place", range(6))
def test_a_kill_at_any_change_of_the_output(options, undisturbed, tmp_path, place):
    """At the n-th change of a file under the output; what has its final name is whole."""
    output = tmp_path / "out"
    crash_at = 3 + 29 * place
    with contextlib.closing(Forked(output, *options, program=PROGRAM, crash_at=crash_at)) as run:
        assert run.wait() in (-9, 0)
    for name in files(output):
        sf.info(output / name)  # whole, whatever came of the rest
    with contextlib.closing(Forked(output, *options, program=PROGRAM)) as run:
        assert run.wait() == 0, run.stderr
    check_the_sum(output, undisturbed)
