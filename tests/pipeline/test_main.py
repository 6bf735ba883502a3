"""The labelling program end to end: what a run leaves, against what was synthesised."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import pyarrow.dataset as ds
import pytest
import soundfile as sf
import torch

from pipeline import __version__
from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import PYAV, PYAV_RATE_HZ, PYAV_SECONDS, SOUNDFILE, label_here
from tests.checkpoints import LABELS


def name_of(row):
    uri = row["uri"]
    return "" if "#row=" in uri else Path(uri).name


@pytest.fixture(scope="module")
def predictions(one_worker):
    return one_worker.rows("predictions")


@pytest.fixture(scope="module")
def failures(one_worker):
    return one_worker.rows("failures")


def test_a_run_with_failures_is_done(one_worker):
    assert one_worker.status == 0
    assert one_worker.stderr == ""


def test_more_failures_than_allowed_are_status_3(two_workers, catalog):
    assert two_workers.status == 3
    share = len(catalog.failed) / catalog.listed
    assert two_workers.stderr.splitlines() == [
        f"{share:.1%} of the inputs failed, more than --max_failure_rate=0.0 allows"
    ]


@pytest.mark.parametrize("which", ["one_worker", "two_workers"])
def test_every_listing_has_its_one_outcome(which, catalog, request):
    run = request.getfixturevalue(which)
    assert Counter(map(name_of, run.rows("predictions"))) == catalog.labelled
    failed = [(name_of(row), row["reason"]) for row in run.rows("failures")]
    assert sorted(failed) == sorted(catalog.failed.items())


@pytest.mark.parametrize("which", ["one_worker", "two_workers"])
def test_the_books_are_those_of_the_catalog(which, catalog, request):
    counts = request.getfixturevalue(which).record["counts"]
    assert counts["listed"] == catalog.listed
    assert counts["labelled"] == sum(catalog.labelled.values())
    assert counts["failed"] == len(catalog.failed)
    assert counts["failed_by_reason"] == Counter(catalog.failed.values())
    assert sum(counts["labelled_by_label"].values()) == counts["labelled"]


def test_the_table_at_the_end_says_the_same(one_worker, catalog):
    lines = [line.split() for line in one_worker.stdout.splitlines()]
    assert lines[0][:2] == [str(catalog.listed), "inputs"]
    assert [str(sum(catalog.labelled.values())), "labelled"] in lines
    assert [str(len(catalog.failed)), "failed"] in lines
    assert lines[-1] == ["results:", str(one_worker.output)]


def test_facts_are_those_of_soundfile(predictions):
    checked = 0
    for row in predictions:
        if name_of(row) in SOUNDFILE:
            info = sf.info(row["uri"])
            facts = (row["sample_rate_hz"], row["channels"], row["decoder"])
            assert facts == (info.samplerate, info.channels, "soundfile"), row["uri"]
            assert row["duration_s"] == pytest.approx(info.duration, abs=1e-9)
            assert row["decode_warnings"] == []
            checked += 1
    assert checked == len(SOUNDFILE) + 1  # one of them has two listings


def test_facts_of_what_soundfile_cannot_read(predictions):
    found = {name_of(row): row for row in predictions if name_of(row) in PYAV}
    assert found.keys() == PYAV.keys()
    for name, row in found.items():
        assert (row["codec"], row["decoder"]) == (PYAV[name][1], "pyav")
        assert (row["sample_rate_hz"], row["channels"]) == (PYAV_RATE_HZ, 2)
        assert row["duration_s"] == pytest.approx(PYAV_SECONDS, abs=0.1)  # encoders pad


def test_hashes_and_sizes_are_those_of_the_files(predictions):
    for row in predictions:
        content = Path(row["uri"]).read_bytes()
        assert row["content_sha256"] == hashlib.sha256(content).hexdigest()
        assert row["size_bytes"] == len(content)


def test_times_of_change_are_those_of_the_files(predictions, failures):
    on_disk = [row for row in predictions + failures if name_of(row) not in ("missing.mp3", "")]
    assert len(on_disk) > len(predictions)
    for row in on_disk:
        seconds = row["modified_at"].timestamp()
        assert seconds == pytest.approx(Path(row["uri"]).stat().st_mtime, abs=2e-6)
    missing = [row for row in failures if name_of(row) in ("missing.mp3", "")]
    assert [row["modified_at"] for row in missing] == [None, None]


def test_odd_files_are_labelled_with_warnings(predictions):
    by_name = {name_of(row): row for row in predictions}
    assert "truncated" in by_name["truncated.flac"]["decode_warnings"]
    assert 0 < by_name["truncated.flac"]["duration_s"] < 5
    assert by_name["silent.wav"]["decode_warnings"] == ["silent"]
    assert by_name["silent.wav"]["label"] == "unknown"


def test_scores_are_probabilities_and_the_label_follows_them(predictions):
    for row in predictions:
        scores = np.array(row["scores"])
        assert scores.shape == (len(LABELS),)
        assert scores.sum() == pytest.approx(1, abs=1e-5)
        order = np.argsort(-scores)
        assert [item["label"] for item in row["top_k"]] == [LABELS[i] for i in order]
        assert row["confidence"] == scores.max() == row["top_k"][0]["score"]
        silent = "silent" in row["decode_warnings"]
        known = scores.max() >= 0.3 and not silent  # the checkpoint's threshold
        assert row["label"] == (LABELS[order[0]] if known else "unknown")
        assert len(row["embedding"]) == 32


def test_windows_are_the_evidence(one_worker, predictions):
    windows = one_worker.rows("windows")
    counts = Counter(row["uri"] for row in windows)
    assert counts == {row["uri"]: row["window_count"] for row in predictions}
    for row in windows:
        assert row["start_s"] == 2.0 * row["window_index"]  # the checkpoint's windows
        assert row["start_s"] < row["end_s"] <= row["start_s"] + 2.0 + 1e-9


def test_a_track_is_the_weighted_geometric_mean_of_its_windows(one_worker, predictions):
    windows = one_worker.rows("windows")
    (row,) = (r for r in predictions if name_of(r) == "a.aiff")
    own = [w for w in windows if w["uri"] == row["uri"]]
    assert len(own) > 1
    weights = np.array([w["end_s"] - w["start_s"] for w in own])
    mean = np.exp((np.log([w["scores"] for w in own]) * weights[:, None]).sum(0) / weights.sum())
    np.testing.assert_allclose(row["scores"], mean / mean.sum(), atol=1e-3)


def test_the_manifest_s_columns_arrive_with_their_types(one_worker, predictions):
    schema = ds.dataset(str(one_worker.output / "predictions")).schema
    types = {name: str(schema.field(name).type) for name in ("mood", "year", "manifest_label")}
    assert types == {"mood": "string", "year": "int64", "manifest_label": "string"}
    listed = [row for row in predictions if name_of(row) == "pcm16.wav"]
    carried = [(r["track_id"], r["mood"], r["year"], r["manifest_label"]) for r in listed]
    assert carried == [("007", "calm, slow", 1999, "rock"), ("008", "calm, slow", 1999, "rock")]
    others = [row for row in predictions if name_of(row) != "pcm16.wav"]
    assert all(row["mood"] is row["track_id"] is None for row in others)


def test_failures_name_the_stage_the_listing_and_the_size(failures, catalog):
    by_name = {name_of(row): row for row in failures}
    assert by_name["text.mp3"]["track_id"] == "009"
    assert by_name["missing.mp3"]["track_id"] == "010"
    assert by_name[""]["track_id"] == "011"
    assert by_name["empty.mp3"]["size_bytes"] == 0
    assert by_name["text.mp3"]["size_bytes"] == (catalog.folder / "text.mp3").stat().st_size
    assert by_name["missing.mp3"]["size_bytes"] is None
    assert {row["stage"] for row in failures} <= {"ReadFiles", "Decode"}
    assert all(row["message"] for row in failures)


def test_every_row_says_where_it_comes_from(one_worker, predictions, failures):
    record = one_worker.record
    assert predictions
    assert failures
    for row in predictions + failures:
        assert row["run_id"] == record["run_id"]
        assert row["model_fingerprint"] == record["model"]["fingerprint"]
        assert row["front_end_fingerprint"] == record["front_end"]["fingerprint"]
        assert row["pipeline_version"] == __version__
    started = dt.datetime.fromisoformat(record["started_at"])
    ended = started + dt.timedelta(seconds=record["seconds"])
    times = [row["labelled_at"] for row in predictions] + [row["failed_at"] for row in failures]
    assert all(started <= time <= ended for time in times)


def test_the_run_s_record(one_worker, catalog, tiny_checkpoint):
    record = one_worker.record
    assert sorted(path.name for path in (one_worker.output / "runs").iterdir()) == [
        ".lock",
        f"{record['run_id']}.json",
    ]
    assert (one_worker.output / "runs/.lock").read_bytes() == b""
    assert record["status"] == "done"
    assert record["resumed_runs"] == []
    assert record["config"]["inputs"] == [str(catalog.folder), str(catalog.manifest)]
    assert record["config"]["precision"] == "float32"
    assert record["model"]["folder"] == str(tiny_checkpoint)
    assert record["model"]["labels"] == list(LABELS)
    assert record["versions"]["torch"] == torch.__version__.split("+")[0]
    stages = record["stages"]
    assert list(stages)[:2] == ["ReadFiles", "Decode"]
    files = len(catalog.labelled) + len(catalog.failed)
    assert stages["Decode"]["elements_in"] == files
    assert stages["ReadFiles"]["duplicate_listings"] == 3  # two of pcm16.wav, one of text.mp3
    windows = len(one_worker.rows("windows"))
    assert stages["MelSpectrogram"]["elements_out"] >= windows
    assert stages["RunInference"]["model_seconds"] > 0
    assert all(stage["busy_seconds"] >= 0 for stage in stages.values())


@pytest.mark.parametrize("which", ["one_worker", "two_workers"])
def test_nothing_else_is_left(which, request):
    run = request.getfixturevalue(which)
    left = [path for path in run.output.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {path.suffix for path in left} <= {".parquet", ".json", ".jsonl"}
    assert {path.name for path in left if not path.name.startswith(run.record["run_id"])} == set()
    assert list(run.output.rglob("journal/*")) == []


def test_json_lines_are_the_parquet_rows(one_worker, predictions):
    (path,) = (one_worker.output / "json").iterdir()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines.sort(key=lambda row: (row["uri"], str(row["track_id"])))
    times = ("labelled_at", "modified_at")
    expected = [{**row, **{name: row[name].isoformat() for name in times}} for row in predictions]
    assert lines == expected


def oracle_scores(path, checkpoint):
    """The published recipe, by librosa, torch and transformers alone."""
    from transformers import ViTForImageClassification

    samples, rate = librosa.load(path, sr=22_050, mono=True)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=2_048, hop_length=512, n_mels=128, fmax=8_000
    )
    decibels = torch.from_numpy(librosa.power_to_db(mel, ref=np.max))[None, None]
    image = torch.nn.functional.interpolate(
        decibels, size=(64, 64), mode="bilinear", antialias=True, align_corners=False
    )
    model = ViTForImageClassification.from_pretrained(checkpoint).eval()
    with torch.inference_mode():
        logits = model((image / 40 + 1).expand(1, 3, 64, 64)).logits
    return torch.softmax(logits, -1)[0].numpy()


@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (22_050, 1), (48_000, 1)])
def test_scores_are_those_of_librosa_and_transformers(tmp_path, tiny_checkpoint, rate, channels):
    sound = sine(5.3, rate, channels, 500.0) + noise(5.3, rate, channels)
    path = write_soundfile(tmp_path / "a.wav", sound, rate, "WAV", "PCM_16")
    run = label_here(tmp_path / "out", f"--input={path}", f"--model={tiny_checkpoint}",
                     "--windows=whole", "--precision=float32")  # fmt: skip
    (row,) = run.rows("predictions")
    assert row["window_count"] == 1
    np.testing.assert_allclose(row["scores"], oracle_scores(path, tiny_checkpoint), atol=1e-4)


def test_a_catalog_without_one_good_track_still_gives_readable_tables(tmp_path, tiny_checkpoint):
    (tmp_path / "empty.mp3").write_bytes(b"")
    run = label_here(tmp_path / "out", f"--input={tmp_path}/*.mp3", f"--model={tiny_checkpoint}")
    assert run.status == 0
    assert run.rows("predictions") == run.rows("windows") == []
    assert [row["reason"] for row in run.rows("failures")] == ["empty_file"]
    metadata = ds.dataset(str(run.output / "predictions")).schema.metadata
    assert json.loads(metadata[b"labels"]) == list(LABELS)
