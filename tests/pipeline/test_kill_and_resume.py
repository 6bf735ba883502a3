"""Runs that are killed, again and again, and gone on with: the rows are those of one quiet run."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import Run, label_here
from tests.pipeline.processes import Forked, Started, segments, wait_until

pytestmark = [pytest.mark.fault, pytest.mark.slow]

TRACKS, COPIES, RATE_HZ = 36, 3, 22_050
FAILURES = {"empty.mp3": "empty_file", "text.mp3": "not_audio", "short.wav": "too_short",
            "text copy.mp3": "not_audio", "gone.flac": "not_found"}  # fmt: skip
LISTINGS = TRACKS + COPIES + 1 + len(FAILURES)  # one file has two


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """Tracks of 1 to 8 s, some copies, some failures, and a manifest that names some again."""
    folder = tmp_path_factory.mktemp("kills")
    music = folder / "music"
    music.mkdir()
    for number in range(TRACKS):
        seconds = (1.0, 4.0, 8.0)[number % 3]
        sound = sine(seconds, RATE_HZ, 1, 100.0 + 40 * number)
        sound += noise(seconds, RATE_HZ, 1, number)
        write_soundfile(music / f"{number:02}.flac", sound, RATE_HZ, "FLAC", "PCM_16")
    for number in range(COPIES):
        shutil.copyfile(music / f"{number + 2:02}.flac", music / f"copy of {number}.flac")
    (music / "empty.mp3").write_bytes(b"")
    for name in ("text.mp3", "text copy.mp3"):
        (music / name).write_text("no music")
    write_soundfile(music / "short.wav", sine(0.01), RATE_HZ, "WAV", "PCM_16")
    rows = [{"uri": f"music/{name}", "track_id": f"id {n}", "year": 1960 + n}
            for n, name in enumerate(["05.flac", "05.flac", "text.mp3", "gone.flac"])]  # fmt: skip
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"--input={music}", f"--input={manifest}"]


@pytest.fixture(scope="module")
def options(inputs, tiny_checkpoint) -> list[str]:
    """Fifty windows a second of sound: slow enough to be killed in the middle."""
    return [*inputs, f"--model={tiny_checkpoint}", "--precision=float32", "--hop_seconds=0.02",
            "--progress=none"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    run = label_here(tmp_path_factory.mktemp("undisturbed") / "out", *options)
    assert run.record["counts"]["listed"] == LISTINGS
    assert {Path(row["uri"]).name: row["reason"] for row in run.rows("failures")} == FAILURES
    assert len(run.rows("predictions")) == LISTINGS - len(FAILURES)
    return run.content


def check_the_sum(output: Path, undisturbed, killed: int) -> None:
    """All runs together are one; each killed one is told, and the last skips what they did."""
    runs = Run(output, 0, "", "")
    content = runs.content
    assert content["failures"] == undisturbed["failures"]  # first: these say why
    assert content["predictions"] == undisturbed["predictions"]
    check_evidence(runs, content["windows"], undisturbed["windows"])
    *earlier, last = runs.records
    assert [record["status"] for record in earlier] == ["recovered"] * len(earlier)
    assert last["status"] == "done"
    assert len(earlier) <= killed
    counts = last["counts"]
    assert counts["listed"] == LISTINGS == sum(counts[k] for k in ("labelled", "failed", "skipped"))
    saved = {kind: sum(record["counts"][kind] for record in earlier)
             for kind in ("labelled", "failed")}  # fmt: skip
    assert counts["skipped_by_outcome"] == {kind: n for kind, n in saved.items() if n}
    # Its own journal may be left where the last kill came behind its last row.
    assert {path.name for path in output.glob("journal/*")} <= {last["run_id"]}
    assert [path for path in output.rglob(".*") if path.name != ".lock"] == []


def check_evidence(runs: Run, windows: list[dict], undisturbed: list[dict]) -> None:
    """Of each file the windows, in every run that has a row of it, and so mostly once.

    A file with two listings may have been journalled with one when the kill came.
    """
    labelled = {(row["uri"], row["run_id"]) for row in runs.rows("predictions")}
    times = Counter(uri for uri, _ in labelled)
    assert {Path(uri).name for uri, count in times.items() if count > 1} <= {"05.flac"}
    expected = [row for row in undisturbed for _ in range(times[row["uri"]])]
    assert windows == expected
    assert {(row["uri"], row["run_id"]) for row in runs.rows("windows")} == labelled


def wait_for_segment(run: Started | Forked, output: Path, before: Collection[str]) -> None:
    """Until the run has journalled something, or ended."""
    wait_until(lambda: run.is_over or set(segments(output)) - set(before), "a segment")


def is_done(output: Path) -> bool:
    return any(record["status"] == "done" for record in Run(output, 0, "", "").records)


@pytest.mark.parametrize("seed", [0, 1])
def test_kills_at_random_moments_of_one_worker(options, undisturbed, tmp_path, seed):
    """One at a random moment of the start, one at the first segment, then random ones."""
    rng, output, killed, saved = random.Random(seed), tmp_path / "out", 0, 0
    for number in range(4):
        with contextlib.closing(Forked(output, *options)) as run:
            before = segments(output)
            if number:  # the very first may fall before anything is journalled
                wait_for_segment(run, output, before)
            time.sleep(0 if number == 1 else rng.uniform(0.0, 0.6))
            if run.is_over:
                break
            run.kill_all()
            assert run.wait() == -9
        if is_done(output):  # the kill came behind the last change: nothing to go on with
            break
        killed += 1
        saved += len(segments(output))
    assert killed
    assert saved
    if not is_done(output):
        with contextlib.closing(Forked(output, *options)) as run:
            assert run.wait() == 0, run.stderr
    check_the_sum(output, undisturbed, killed)


def test_kills_of_two_workers_of_their_launcher_and_of_one_of_them(options, undisturbed, tmp_path):
    output = tmp_path / "out"
    for kill, status in (("kill_all", -9), ("kill_launcher", -9), ("kill_worker", 1)):
        before = set(segments(output))
        with contextlib.closing(Started(output, *options, "--workers=2")) as run:
            wait_for_segment(run, output, before)
            assert not run.is_over, run.stderr
            assert any("-m pipeline.worker" in line for line in run.family().values())
            getattr(run, kill)()
            assert run.wait() == status
            wait_until(lambda: not run.family(), "the end of workers and decoders")
            assert status == -9 or run.stderr[-1].startswith("error: a worker process died")
    with contextlib.closing(Started(output, *options, "--workers=2")) as run:
        assert run.wait() == 0, run.stderr
        assert run.stderr[0].startswith("going on from ")
    check_the_sum(output, undisturbed, killed=3)
