"""A run that ends at any of its changes to files, publishing included, is gone on with."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.recovery import recover
from tests.audio_files import noise, write_soundfile
from tests.catalog import Run, label_here
from tests.pipeline.processes import Forked, call_and_crash
from transforms import write
from transforms.errors import StorageError

pytestmark = [pytest.mark.fault, pytest.mark.slow]

POINTS = 8  # of the some sixty changes of a run: all of them take minutes


@pytest.fixture(scope="module")
def options(tiny_checkpoint, tmp_path_factory) -> list[str]:
    music = tmp_path_factory.mktemp("crashes") / "music"
    music.mkdir()
    for number in range(3):
        sound = noise(1.0 + number, 22_050, 1, number)
        write_soundfile(music / f"{number}.flac", sound, 22_050, "FLAC", "PCM_16")
    shutil.copyfile(music / "2.flac", music / "2 again.flac")
    (music / "broken.mp3").write_text("no sound")
    return [f"--input={music}", f"--model={tiny_checkpoint}", "--precision=float32",
            "--format=json", "--progress=none"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(options, tmp_path_factory):
    run = label_here(tmp_path_factory.mktemp("quiet") / "out", *options)
    assert [len(rows) for rows in run.content.values()] == [4, 6, 1]
    return run.content


def check(output: Path, undisturbed) -> None:
    run = Run(output, 0, "", "")
    done_before = [record["status"] for record in run.records[:-1]] == ["done"]
    content = run.content
    if done_before:  # only the journal was left to be removed: a new run tries failures again
        assert content["failures"] == 2 * undisturbed["failures"]
        content["failures"] = undisturbed["failures"]
    assert content == undisturbed
    lines = [json.loads(line) for path in output.glob("json/*.jsonl")
             for line in path.read_text(encoding="utf-8").splitlines()]  # fmt: skip
    uris = [row["uri"] for row in undisturbed["predictions"]]
    assert sorted(row["uri"] for row in lines) == uris
    assert list(output.glob("journal/*")) == []


def label(output: Path, options: list[str], crash_at: int | None = None) -> int:
    """How many changes a run made, 0 where it was killed."""
    output.mkdir(exist_ok=True)
    with contextlib.closing(Forked(output, *options, crash_at=crash_at)) as run:
        status = run.wait()
        if status == -9:
            return 0
        assert status == 0, run.stderr
        return run.changes


def test_a_kill_at_changes_of_a_run(options, undisturbed, tmp_path):
    changes = label(tmp_path / "whole", options)
    assert changes > 30
    for number in random.Random(0).sample(range(1, changes + 1), POINTS):
        output = tmp_path / str(number)
        assert label(output, options, crash_at=number) == 0
        label(output, options)
        check(output, undisturbed)


@pytest.fixture(scope="module")
def journalled(options, tmp_path_factory) -> Path:
    """An output with all rows in the journal of a run that could not publish."""
    output = tmp_path_factory.mktemp("journalled") / "out"

    def refuse(*_):
        raise StorageError("no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "publish", refuse)
        assert label_here(output, *options).status == 1
    assert not (output / "predictions").exists()
    return output


def test_a_kill_at_every_change_of_a_recovery(journalled, options, undisturbed, tmp_path):
    """Kill recover() at each change, and again a little later, then let it come to its end."""
    later, number, reached = random.Random(1), 0, True
    while reached:
        number += 1
        output = tmp_path / str(number)
        shutil.copytree(journalled, output)
        recovery = functools.partial(recover, str(output), json_lines=True)
        reached = call_and_crash(recovery, output, number)
        call_and_crash(recovery, output, later.randrange(1, 20))
        recovery()
        run = Run(output, 0, "", "")
        assert run.content == undisturbed, number
        assert [record["status"] for record in run.records] == ["recovered"]
        assert [path for path in output.rglob(".*") if path.name != ".lock"] == []
    assert number > 15
