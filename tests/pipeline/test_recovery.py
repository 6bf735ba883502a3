"""What killed runs have left: published, told in their records, and gone on with."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from pathlib import Path

import pytest

from pipeline import recovery
from tests.catalog import Run
from transforms.errors import StorageError
from transforms.journal import commit_count, commit_segment, count_rows
from transforms.records import (
    FailureRow,
    PredictionRow,
    Track,
    journal_schema,
    row_dict,
    schema_of,
)
from transforms.storage.slices import write_slice
from transforms.track_rows import feature_fields

NOW = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.timezone.utc)
R0, R1, R2, R3 = (f"20260101T00000{number}Z-00000{number}" for number in range(4))
LABELS = ("pop", "rock")
SCHEMA = schema_of(PredictionRow, labels=LABELS)


def recover(output: str, *, json_lines: bool) -> tuple[str, ...]:
    """As a run does it: the journals go when its own record names the runs."""
    resumed = recovery.recover(output, json_lines=json_lines)
    recovery.forget(output, but="")
    return resumed


def track(name: str, run_id: str, windows: int = 2, listing: int = 0) -> dict:
    evidence = {"start_s": 0.0, "end_s": 1.0, "label": "rock", "confidence": 0.75,
                "scores": [0.25, 0.75]}  # fmt: skip
    row = PredictionRow(
        uri=name, track_id=None, content_sha256="0" * 64, size_bytes=1, modified_at=NOW,
        duration_s=1.0, sample_rate_hz=8_000, channels=1, container="wav", codec="pcm",
        decoder="soundfile", decode_warnings=[], label="rock", confidence=0.75, top_k=[],
        scores=[0.25, 0.75], window_count=windows, embedding=None, **feature_fields(None),
        model_fingerprint="m", front_end_fingerprint="f", pipeline_version="0", run_id=run_id,
        labelled_at=NOW,
    )  # fmt: skip
    nested = [{"window_index": number, **evidence} for number in range(windows)]
    return {**row_dict(row), "_listing": listing, "_windows": nested}


def failure(name: str, run_id: str) -> dict:
    row = FailureRow(
        uri=name, track_id=None, size_bytes=1, modified_at=NOW, stage="Decode", reason="corrupt",
        message="m", model_fingerprint="m", front_end_fingerprint="f", pipeline_version="0",
        run_id=run_id, failed_at=NOW,
    )  # fmt: skip
    return {**row_dict(row), "_listing": 0}


def journal(output: Path, run_id: str, tracks=(), failures=()) -> None:
    folder = str(output / "journal" / run_id)
    for rows, kind, schema in ((tracks, "tracks", SCHEMA),
                               (failures, "failures", schema_of(FailureRow))):  # fmt: skip
        for row in rows:
            commit_segment(folder, kind, [row], journal_schema(schema))
    commit_count(folder, "listed", 9)


def record(output: Path, run_id: str, status: str, **more) -> None:
    (output / "runs").mkdir(exist_ok=True)
    content = {"run_id": run_id, "status": status, "counts": None, "started_at": run_id, **more}
    (output / "runs" / f"{run_id}.json").write_text(json.dumps(content))


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes()
            for path in output.rglob("*") if path.is_file()}  # fmt: skip


@pytest.fixture
def killed(tmp_path) -> Path:
    """A run that was killed after two tracks and a failure."""
    journal(tmp_path, R1, [track("a", R1), track("b", R1, 3)], [failure("c", R1)])
    record(tmp_path, R1, "running", config={"top_k": 5})
    return tmp_path


def test_where_nothing_was_killed_nothing_happens(tmp_path):
    assert recover(str(tmp_path), json_lines=False) == ()
    assert recover(str(tmp_path / "not there"), json_lines=False) == ()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_finished_is_published(killed):
    assert recover(str(killed), json_lines=False) == (R1,)
    run = Run(killed, 0, "", "")
    assert [row["uri"] for row in run.rows("predictions")] == ["a", "b"]
    assert [(row["uri"], row["window_index"]) for row in run.rows("windows")] == [
        ("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)
    ]  # fmt: skip
    assert [row["uri"] for row in run.rows("failures")] == ["c"]
    assert list(killed.glob("journal/*")) == []
    assert not (killed / "json").exists()


def test_slices_of_the_catalog_are_no_results_and_go_with_the_journal(killed):
    """A track of a slice may not have been touched, or be finished in a segment already."""
    folder = killed / "journal" / R1
    counts = count_rows(str(folder))
    for name in ("a", "untouched"):
        write_slice(f"{folder}/slices", [Track(name, 1, NOW)])
    assert count_rows(str(folder)) == counts == {"tracks": 2, "failures": 1, "listed": 9}
    assert recover(str(killed), json_lines=False) == (R1,)
    assert [row["uri"] for row in Run(killed, 0, "", "").rows("predictions")] == ["a", "b"]
    assert list(killed.glob("journal/*")) == []


def test_its_record_says_so_and_keeps_the_rest(killed):
    recover(str(killed), json_lines=False)
    found = Run(killed, 0, "", "").record
    assert found == {
        "run_id": R1,
        "status": "recovered",
        "started_at": R1,
        "config": {"top_k": 5},
        "counts": {
            "labelled": 2,
            "failed": 1,
            "labelled_by_label": {"rock": 2},
            "failed_by_reason": {"corrupt": 1},
        },
    }


def test_a_run_without_a_record_gets_one(killed):
    (killed / f"runs/{R1}.json").unlink()
    assert recover(str(killed), json_lines=False) == (R1,)
    found = Run(killed, 0, "", "").record
    assert (found["run_id"], found["status"]) == (R1, "recovered")


def test_json_lines_where_they_are_asked_for(killed):
    recover(str(killed), json_lines=True)
    lines = (killed / f"json/{R1}.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["uri"] for line in lines) == ["a", "b"]


def test_a_second_time_changes_nothing(killed):
    recover(str(killed), json_lines=False)
    before = files(killed)
    assert recover(str(killed), json_lines=False) == ()
    assert files(killed) == before


def test_a_recovery_that_was_killed_before_it_removed_the_journal(killed, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(killed / "journal", kept)
    recover(str(killed), json_lines=False)
    before = files(killed / "predictions")
    shutil.move(kept, killed / "journal" / "x")
    (killed / f"journal/x/{R1}").rename(killed / f"journal/{R1}")
    (killed / "journal/x").rmdir()
    assert recover(str(killed), json_lines=False) == (R1,)
    assert files(killed / "predictions") == before
    assert list(killed.glob("journal/*")) == []


def test_half_a_dataset_of_its_own_is_written_anew_and_others_stay(killed):
    (killed / "predictions").mkdir()
    (killed / f"predictions/{R1}-00000.parquet").write_bytes(b"half")
    (killed / f"predictions/{R1}-00001.parquet").write_bytes(b"half")
    (killed / "predictions/r10-00000.parquet").write_bytes(b"of another run")
    recover(str(killed), json_lines=False)
    other = killed / "predictions/r10-00000.parquet"
    assert other.read_bytes() == b"of another run"
    other.unlink()
    assert [row["uri"] for row in Run(killed, 0, "", "").rows("predictions")] == ["a", "b"]


def test_a_run_that_was_done_is_not_published_again(killed):
    record(killed, R1, "done")
    assert recover(str(killed), json_lines=False) == ()
    assert not (killed / "predictions").exists()
    assert list(killed.glob("journal/*")) == []
    assert Run(killed, 0, "", "").record["status"] == "done"


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_runs_that_ended_badly_are_gone_on_with(killed, status):
    record(killed, R1, status)
    assert recover(str(killed), json_lines=False) == (R1,)
    assert len(Run(killed, 0, "", "").rows("predictions")) == 2


def test_a_chain_of_killed_runs_is_handed_on(killed):
    """r2 went on with r0, which has nothing left to publish."""
    journal(killed, R2, [track("d", R2)])
    record(killed, R2, "running", resumed_runs=[R0])
    assert recover(str(killed), json_lines=False) == (R1, R2, R0)
    run = Run(killed, 0, "", "")
    assert [(row["uri"], row["run_id"]) for row in run.rows("predictions")] == [
        ("a", R1), ("b", R1), ("d", R2)
    ]  # fmt: skip


def test_a_row_that_a_bundle_journalled_twice_is_published_once(killed):
    journal(killed, R1, [track("a", R1)], [failure("c", R1), failure("a", R1)])
    recover(str(killed), json_lines=False)
    run = Run(killed, 0, "", "")
    assert [row["uri"] for row in run.rows("predictions")] == ["a", "b"]
    assert [row["uri"] for row in run.rows("failures")] == ["c"]
    assert len(run.rows("windows")) == 5


def test_an_empty_journal_of_a_run_that_was_killed_at_once(tmp_path):
    journal(tmp_path, R1)
    record(tmp_path, R1, "running")
    assert recover(str(tmp_path), json_lines=False) == (R1,)
    assert Run(tmp_path, 0, "", "").record["counts"]["labelled"] == 0
    assert not (tmp_path / "predictions").exists()


def test_drafts_in_the_journal_are_no_segments(killed):
    (killed / f"journal/{R1}/.tracks-000009-abc.parquet.tmp").write_bytes(b"half")
    recover(str(killed), json_lines=False)
    assert len(Run(killed, 0, "", "").rows("predictions")) == 2
    assert list(killed.glob("journal/*")) == []


def test_a_journal_that_cannot_be_published_stays(killed, monkeypatch):
    def refuse(*_):
        raise StorageError("no room")

    before = files(killed)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "publish_journal", refuse)
        with pytest.raises(StorageError, match="no room"):
            recover(str(killed), json_lines=False)
    assert files(killed) == before
    assert recover(str(killed), json_lines=False) == (R1,)


def test_rows_are_those_of_the_journal_column_by_column(killed):
    recover(str(killed), json_lines=False)
    row = Run(killed, 0, "", "").rows("predictions")[0]
    expected = track("a", R1)
    assert row == {field.name: expected[field.name] for field in dataclasses.fields(PredictionRow)}


def test_a_run_that_is_killed_before_its_record_loses_nothing(killed):
    assert recovery.recover(str(killed), json_lines=False) == (R1,)
    before = files(killed)
    assert recovery.recover(str(killed), json_lines=False) == (R1,)
    assert files(killed) == before


def test_what_is_no_journal_stays(killed):
    diary = killed / "journal" / "diary" / "day.txt"
    diary.parent.mkdir()
    diary.write_text("not ours")
    assert recover(str(killed), json_lines=False) == (R1,)
    assert [path for path in (killed / "journal").rglob("*") if path.is_file()] == [diary]
    assert sorted(path.name for path in (killed / "runs").iterdir()) == [f"{R1}.json"]


def test_a_journal_that_cannot_be_removed_is_told(killed, monkeypatch, capsys):
    def refuse(_folder):
        raise StorageError("no")

    monkeypatch.setattr(recovery, "delete_tree", refuse)
    assert recover(str(killed), json_lines=False) == (R1,)
    assert "is left: no" in capsys.readouterr().err


def test_json_lines_where_the_killed_run_wrote_them(killed):
    record(killed, R1, "running", config={"format": "json"})
    recover(str(killed), json_lines=False)
    assert (killed / "json" / f"{R1}.jsonl").exists()
