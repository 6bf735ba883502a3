"""Full, read-only and busy storage: a clean stop in one line, and the same rows afterwards."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audio_files import noise, write_soundfile
from tests.catalog import Run, label_here
from tests.pipeline.processes import Forked, Started, wait_until
from transforms.storage import durable, retry

pytestmark = pytest.mark.fault

TRACKS = 12


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory) -> list[str]:
    music = tmp_path_factory.mktemp("faults") / "music"
    music.mkdir()
    for number in range(TRACKS):
        sound = noise(1.0 + number / 2, 22_050, 1, number)
        write_soundfile(music / f"{number:02}.flac", sound, 22_050, "FLAC", "PCM_16")
    (music / "broken.mp3").write_text("no sound")
    return [f"--input={music}", f"--model={tiny_checkpoint}", "--precision=float32"]


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    content = label_here(tmp_path_factory.mktemp("quiet") / "out", *options).content
    assert [len(content[name]) for name in ("predictions", "failures")] == [TRACKS, 1]
    return content


@pytest.fixture
def impatient(monkeypatch):
    """Storage is tried again, but for a second in place of two minutes."""
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(retry, "_FIRST_DELAY_SECONDS", 0.05)


@contextlib.contextmanager
def mounted(folder: Path, size: str, *flags: str) -> Iterator[Path]:
    """A file system in memory of its own size."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    command = [mount, "-t", "tmpfs", "-o", ",".join([f"size={size}", *flags]), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # readers may not be closed yet


def fill(folder: Path, but_bytes: int) -> Path:
    """Fill a file system with a file, but for some bytes."""
    filler = folder / "filler"
    status = os.statvfs(folder)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_bsize - but_bytes)))
    return filler


def the_one_error(lines: list[str]) -> str:
    """The only line but attempts and progress."""
    told = (
        "WARNING transforms.storage.retry: ",
        "going on from ",
        "the run's record stays as it is: ",
    )
    parts = (" tracks/s, ", "batches of")  # the progress, and what the run takes of the machine
    others = [
        line
        for line in lines
        if not line.startswith(told) and not any(part in line for part in parts)
    ]
    assert len(others) == 1, lines
    assert others[0].startswith("error: ")
    assert "[while running" not in others[0]
    return others[0]


@pytest.mark.slow
@pytest.mark.parametrize("room", [10_000, 30_000, 60_000])
def test_a_full_disk_stops_the_run_and_with_room_it_goes_on(options, undisturbed, tmp_path, room):
    with mounted(tmp_path / "disk", "4m") as disk:
        output = disk / "out"
        (output / "runs").mkdir(parents=True)  # else the call is a wrong one, see below
        filler = fill(disk, room)
        with contextlib.closing(Forked(output, *options)) as stopped:
            assert stopped.wait() == 1, stopped.stderr
            assert "No space left" in the_one_error(stopped.stderr)
        assert len(list(output.glob("journal/*"))) == 1
        filler.unlink()
        run = label_here(output, *options)
        assert run.status == 0
        assert run.content == undisturbed
        assert [record["status"] for record in run.records] == ["recovered", "done"]
        assert list(output.glob("journal/*")) == []


def test_a_disk_that_is_full_for_a_moment_fails_nothing(
    options, undisturbed, tmp_path, monkeypatch
):
    monkeypatch.setattr(retry, "_FIRST_DELAY_SECONDS", 0.05)
    met, original = threading.Event(), durable.retried

    with mounted(tmp_path / "disk", "4m") as disk:
        filler = fill(disk, 20_000)

        def retried(what, call, **more):
            def watched():
                try:
                    return call()
                except OSError:
                    met.set()
                    filler.unlink(missing_ok=True)
                    raise

            return original(what, watched, **more)

        monkeypatch.setattr(durable, "retried", retried)
        run = label_here(disk / "out", *options)
        assert met.is_set()
        assert run.status == 0
        assert run.content == undisturbed
        assert len(run.records) == 1


@pytest.mark.usefixtures("impatient")
def test_files_that_may_not_grow_stop_the_run(options, undisturbed, tmp_path, capsys):
    """As a quota does, without a file system of its own."""
    output = tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, limits[1]))
        status = label_here(output, *options).status
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert status == 1
    assert "File too large" in the_one_error(capsys.readouterr().err.splitlines())
    assert label_here(output, *options).content == undisturbed


def test_a_read_only_output_is_a_wrong_call(options, tmp_path, capsys):
    with mounted(tmp_path / "disk", "1m", "ro") as disk:
        assert label_here(disk / "out", *options).status == 2
        assert "Read-only file system" in the_one_error(capsys.readouterr().err.splitlines())


def test_a_file_in_the_way_is_a_wrong_call(options, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "runs").write_text("in the way")
    assert label_here(output, *options).status == 2
    assert f"--output={output} cannot be" in the_one_error(capsys.readouterr().err.splitlines())
    assert (output / "runs").read_text() == "in the way"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["predictions", "windows", "failures", "journal"])
def test_a_file_in_the_way_of_a_dataset_stops_the_run(options, undisturbed, tmp_path, capsys, name):
    output = tmp_path / "out"
    output.mkdir()
    (output / name).write_text("in the way")
    assert label_here(output, *options).status == 1
    assert str(output / name) in the_one_error(capsys.readouterr().err.splitlines())
    (output / name).unlink()
    run = label_here(output, *options)
    assert run.status == 0
    assert run.content == undisturbed


@pytest.mark.slow
def test_an_error_in_one_of_two_workers_is_one_line(options, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "predictions").write_text("in the way")
    with contextlib.closing(Started(output, *options, "--workers=2")) as run:
        assert run.wait() == 1
        assert str(output / "predictions") in the_one_error(run.stderr)


@pytest.mark.slow
def test_a_second_run_into_the_same_output_is_refused(options, undisturbed, tmp_path, capsys):
    output = tmp_path / "out"
    with contextlib.closing(Started(output, *options, "--workers=1")) as first:
        wait_until(lambda: first.is_over or list(output.glob("journal/*")), "the first run's start")
        assert not first.is_over, first.stderr
        assert label_here(output, *options).status == 2
        error = the_one_error(capsys.readouterr().err.splitlines())
        assert f"--output={output}: another run (process {first.pid} on " in error
        assert not first.is_over
        assert first.wait() == 0, first.stderr
    run = Run(output, 0, "", "")
    assert run.content == undisturbed
    assert [record["status"] for record in run.records] == ["done"]
