"""``python -m pipeline.enhance`` as a user calls it, on every format and every kind of failure."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import ROOT, Catalog, Run, environment, make_catalog
from tests.enhanced import (
    check_files,
    enhance,
    enhance_here,
    files,
    inside,
    make_16khz_enhancer,
    rows,
)
from tests.pipeline.shelf import write_track
from transforms.records import FailureRow, schema_of
from transforms.results import ENHANCED_AUDIO, EnhancedRow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return make_16khz_enhancer(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory) -> Catalog:
    """All formats, broken files, and a file under another name with the same bytes."""
    catalog = make_catalog(tmp_path_factory.mktemp("catalog"))
    catalog.labelled["one sample.wav"] = 1  # too short for a label alone
    del catalog.failed["one sample.wav"]
    shutil.copyfile(catalog.folder / "silent.wav", catalog.folder / "silent too.wav")
    catalog.labelled["silent too.wav"] = 1
    return catalog


@pytest.fixture(scope="module")
def one_worker(catalog, checkpoint, tmp_path_factory) -> Run:
    output = tmp_path_factory.mktemp("one") / "out"
    return enhance(output, f"--model={checkpoint}", "--workers=1", "--profile", *catalog.inputs)


@pytest.fixture(scope="module")
def two_workers(catalog, checkpoint, tmp_path_factory) -> Run:
    """The inputs in another order, and no failure allowed."""
    output = tmp_path_factory.mktemp("two") / "out"
    return enhance(output, f"--model={checkpoint}", "--workers=2", "--max_failure_rate=0",
                   "--progress=none", *reversed(catalog.inputs))  # fmt: skip


def test_every_input_is_accounted_for(one_worker, catalog):
    assert one_worker.status == 0, one_worker.stderr
    told = rows(one_worker.output)
    assert Counter(Path(row["uri"]).name for row in told) == catalog.labelled
    failed = rows(one_worker.output, "failures")
    assert Counter(row["reason"] for row in failed) == Counter(catalog.failed.values())
    assert {row["stage"] for row in failed} == {"Enhance"}
    counts = one_worker.record["counts"]
    assert counts == {
        "listed": catalog.listed,
        "enhanced": len(told),
        "failed": len(failed),
        "skipped": 0,
        "enhanced_by_method": {"model": len(told)},
        "failed_by_reason": dict(Counter(row["reason"] for row in failed)),
        "skipped_by_outcome": {},
    }


def test_every_row_s_file_is_there_and_no_other(one_worker):
    check_files(one_worker.output)
    for row in rows(one_worker.output):
        sound = sf.read(row["output"], always_2d=True)[0]
        limit = 2.0**-23 + 1e-4 * row["rms_before"] + 3e-4  # the mask moves the mean a little
        assert np.isfinite(sound).all()
        assert row["rms_after"] == pytest.approx(np.sqrt(np.square(sound).mean()), abs=limit)


def test_equal_bytes_are_enhanced_once(one_worker):
    silent = [row for row in rows(one_worker.output) if Path(row["uri"]).name.startswith("silent")]
    assert len(silent) == 2
    assert len({row["output"] for row in silent}) == 1
    enhanced = len({row["output"] for row in rows(one_worker.output)})
    assert one_worker.record["stages"]["Enhance"]["elements_out"] == enhanced


def test_the_manifest_s_columns_go_through(one_worker):
    found = {row["track_id"]: row for row in rows(one_worker.output) if row["track_id"]}
    assert sorted(found) == ["007", "008"]
    assert (found["007"]["mood"], found["007"]["year"]) == ("calm, slow", 1999)
    assert found["007"]["label"] == "rock"  # no column of these results


def test_the_schemas(one_worker):
    (path,) = (one_worker.output / "enhanced").glob("*.parquet")
    schema = pq.read_schema(path)
    own = schema_of(EnhancedRow)
    assert schema.names[: len(own)] == own.names
    assert schema.names[len(own) :] == ["mood", "year", "label"]
    assert [schema.field(name).type for name in own.names] == own.types
    failures = ds.dataset(str(one_worker.output / "failures")).schema
    assert failures.names == schema_of(FailureRow).names


def test_what_is_printed(one_worker, catalog):
    lines = one_worker.stdout.splitlines()
    assert f"{sum(catalog.labelled.values()):>9,}  enhanced" in lines
    assert lines[-1] == f"results: {one_worker.output}"
    parts = [line.split()[0] for line in lines[1:8]]
    assert parts == ["read", "decode", "transfer", "enhance", "encode", "write", "rest"]
    assert one_worker.stderr.splitlines()[0].startswith("1 worker with 1 thread each")
    assert "model on cpu" in one_worker.stderr


def test_two_workers_give_the_same_rows_and_files(one_worker, two_workers):
    assert two_workers.status == 3, two_workers.stderr  # the failures
    assert files(two_workers.output) == files(one_worker.output)
    first, second = (inside(run.output, rows(run.output)) for run in (one_worker, two_workers))
    assert second == first
    assert rows(two_workers.output, "failures") == rows(one_worker.output, "failures")
    assert len(two_workers.record["workers"]) == 2


def test_the_record_says_all_that_made_the_files(one_worker, checkpoint):
    record = one_worker.record
    assert record["status"] == "done"
    assert record["results"] == "enhanced"
    assert record["config"]["bits"] == 24
    assert record["model"]["name"] == str(checkpoint)
    (row,) = {(row["model_fingerprint"], row["front_end_fingerprint"])
              for row in rows(one_worker.output)}  # fmt: skip
    assert row == (record["model"]["fingerprint"], record["front_end"]["fingerprint"])


@pytest.fixture
def shelf(tmp_path) -> Path:
    music = tmp_path / "music"
    music.mkdir()
    for seed, name in enumerate("abc"):
        write_track(music / f"{name}.flac", seed)
    (music / "broken.mp3").write_text("no sound at all")
    return music


def counts(run: Run) -> tuple[int, int, int]:
    assert run.status == 0
    told = run.record["counts"]
    assert told["listed"] == told["enhanced"] + told["failed"] + told["skipped"]
    return told["enhanced"], told["failed"], told["skipped"]


def test_the_same_command_again_does_what_is_new(shelf, tmp_path):
    """Unchanged files are skipped, changed ones done, copies of known bytes get their row."""
    output, options = tmp_path / "out", [f"--input={shelf}", "--method=none"]
    assert counts(enhance_here(output, *options)) == (3, 1, 0)
    assert counts(enhance_here(output, *options)) == (0, 1, 3)
    write_track(shelf / "a.flac", 7)
    shutil.copyfile(shelf / "b.flac", shelf / "another b.flac")
    (shelf / "c.flac").rename(shelf / "moved.flac")
    before = files(output)
    run = enhance_here(output, *options)
    assert counts(run) == (3, 1, 1)
    assert run.record["stages"]["Enhance"]["elements_out"] == 1  # the others' bytes are known
    check_files(output)
    assert len(files(output)) == 4
    assert before.items() <= files(output).items()
    told = {Path(row["uri"]).name: row for row in rows(output)}
    assert told["another b.flac"]["output"] == told["b.flac"]["output"]
    assert told["moved.flac"]["output"] == told["c.flac"]["output"]


def test_content_can_be_asked_for(shelf, tmp_path):
    output, options = tmp_path / "out", [f"--input={shelf}", "--method=none"]
    assert counts(enhance_here(output, *options)) == (3, 1, 0)
    (shelf / "a.flac").touch()
    assert counts(enhance_here(output, *options)) == (0, 1, 3)
    assert counts(enhance_here(output, *options, "--verify=content")) == (0, 1, 3)
    assert counts(enhance_here(output, *options, "--redo")) == (3, 1, 0)
    check_files(output)


def test_other_settings_are_another_set_of_files(shelf, tmp_path, checkpoint):
    output, seen = tmp_path / "out", 0
    for settings in ([], ["--bits=16"], ["--format=wav"], [f"--model={checkpoint}"]):
        method = "--method=model" if any("model" in s for s in settings) else "--method=none"
        assert counts(enhance_here(output, f"--input={shelf}", method, *settings)) == (3, 1, 0)
        seen += 3
        assert len(files(output)) == seen
    check_files(output)
    folders = {path.name.split("-")[0] for path in (output / ENHANCED_AUDIO).iterdir()}
    assert folders == {"none", "model"}


def test_spectral_gate_and_griffin_lim(tmp_path):
    folder = tmp_path / "music"
    folder.mkdir()
    write_soundfile(folder / "a.wav", sine(1.0, 8_000, 1) + noise(1.0, 8_000, 1), 8_000, "WAV")
    for options in (["--method=spectral_gate"], ["--method=none", "--reconstruct=griffin_lim"]):
        run = enhance_here(tmp_path / "out", f"--input={folder}", *options)
        assert counts(run) == (1, 0, 0)
    check_files(tmp_path / "out")


def test_the_output_may_lie_in_the_input(shelf):
    """What was enhanced is no input of the next run; a folder of the user's is."""
    (shelf / "audio").mkdir()
    write_track(shelf / "audio" / "d.flac", 9)
    options = [f"--input={shelf}", "--method=none"]
    assert counts(enhance_here(shelf, *options)) == (4, 1, 0)
    assert counts(enhance_here(shelf, *options)) == (0, 1, 4)


def test_labels_and_enhanced_sound_share_an_output(shelf, tmp_path, tiny_checkpoint):
    """And the enhanced files can be labelled there."""
    from tests.catalog import label_here

    output = tmp_path / "out"
    assert counts(enhance_here(output, f"--input={shelf}", "--method=none")) == (3, 1, 0)
    run = label_here(output, f"--input={output / ENHANCED_AUDIO}", f"--model={tiny_checkpoint}")
    assert run.record["counts"]["labelled"] == 3
    assert {row["uri"] for row in run.rows("predictions")} == {r["output"] for r in rows(output)}
    assert counts(enhance_here(output, f"--input={shelf}", "--method=none")) == (0, 1, 3)


def test_columns_that_the_results_have_are_renamed(shelf, tmp_path):
    manifest = tmp_path / "m.jsonl"
    row = {"uri": "music/a.flac", "output": "vinyl", "label": "rock", "enhanced_at": "noon"}
    manifest.write_text(json.dumps(row) + "\n")
    assert counts(enhance_here(tmp_path / "out", f"--input={manifest}", "--method=none"))[0] == 1
    (told,) = ds.dataset(str(tmp_path / "out" / "enhanced")).to_table().to_pylist()
    assert told["manifest_output"] == "vinyl"
    assert told["manifest_enhanced_at"] == "noon"
    assert told["label"] == "rock"


def test_a_catalog_of_labels_can_be_enhanced(shelf, tmp_path):
    """A manifest that has all columns of the other program's results."""
    names = ["label", "labelled_at", "window_count", "scores", "results"]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(json.dumps({"uri": "music/a.flac", **dict.fromkeys(names, "x")}) + "\n")
    assert counts(enhance_here(tmp_path / "out", f"--input={manifest}", "--method=none"))[0] == 1
    (told,) = ds.dataset(str(tmp_path / "out" / "enhanced")).to_table().to_pylist()
    assert [told[name] for name in names] == ["x"] * len(names)


def test_help_says_what_is_needed():
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.enhance", "--help"], cwd=ROOT, env=environment(),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    for word in ("--method", "spectral_gate", "griffin_lim", "--bits", "enhanced_audio", "exit"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model=no-such-model"], "--model=no-such-model: no config.json there"),
        (["--model=genre-vit"], "model_type is 'vit'"),
        (["--model=genre-vit"], "this model labels, it does not enhance"),
        (["--model=typo"], "shipped models: denoise-lstm"),
        (["--method=none", "--input=nothing/*.mp3"], "--input=nothing/.*matches nothing"),
        (["--method=none", "--bits=8"], "invalid choice: 8"),
        (["--method=magic"], "invalid choice: 'magic'"),
        (["--method=none", "--no_such_option=1"], "not an option of this program"),
        (["--method=none", "--output=out*"], "choose another name"),
        (["--method=none", "--max_seconds=0"], "invalid positive float value"),
    ],
)
def test_a_wrong_call_is_answered_in_one_line(shelf, options, message, capsys):
    try:
        status = enhance_here(shelf.parent / "out", f"--input={shelf}", *options).status
    except SystemExit as error:  # argparse's
        status = error.code
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "error: " in line
    assert re.search(message, line), line
    assert not (shelf.parent / "out" / "runs").exists()


def test_what_was_enhanced_is_no_input_of_the_same_output(shelf, tmp_path, capsys):
    output = tmp_path / "out"
    options = [f"--input={output}/{ENHANCED_AUDIO}/**/*.flac", "--method=none"]
    assert enhance_here(output, *options).status == 2
    assert "choose another output" in capsys.readouterr().err


def test_configuration_is_a_frozen_value():
    from pipeline.enhance_arguments import parse_options

    config = parse_options(["--input=a", "--output=b/"])
    assert (config.output, config.method, config.model, config.bits) == (
        "b", "model", "denoise-lstm", 24,
    )  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.output = "c"  # type: ignore[misc]
