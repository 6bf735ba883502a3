"""The documents say what is true: their queries run, their closed sets are the code's."""

import datetime as dt
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason
from transforms.records import FailureRow, PredictionRow, WindowRow, schema_of
from transforms.results import EnhancedRow
from transforms.streaming.rows import LabelRow, StreamFailureRow

ROOT = Path(__file__).parents[1]
OUTPUT_MD = (ROOT / "docs" / "output.md").read_text()
ENHANCEMENT_MD = (ROOT / "docs" / "enhancement.md").read_text()
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)


def prediction(
    uri: str, label: str, confidence: float, day: int = 2, track_id: str | None = None
) -> dict:
    top_k = [{"label": label, "score": confidence}, {"label": "other", "score": 1 - confidence}]
    row = dict.fromkeys(schema_of(PredictionRow).names)
    return {**row, "uri": uri, "label": label, "confidence": confidence, "top_k": top_k,
            "decode_warnings": ["silent"], "labelled_at": NOW.replace(day=day),
            "run_id": f"run-{day}", "track_id": track_id}  # fmt: skip


def failure(uri: str, reason: Reason, day: int = 2) -> dict:
    row = dict.fromkeys(schema_of(FailureRow).names)
    return {**row, "uri": uri, "stage": "Decode", "reason": reason.value, "message": "m",
            "failed_at": NOW.replace(day=day), "run_id": f"run-{day}"}  # fmt: skip


def window(uri: str, index: int, day: int) -> dict:
    row = dict.fromkeys(schema_of(WindowRow).names)
    return {**row, "uri": uri, "window_index": index, "run_id": f"run-{day}"}


def write(folder: Path, name: str, row_class: type, rows: list[dict], day: int = 2) -> None:
    (folder / name).mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows, schema_of(row_class))
    pq.write_table(table, folder / name / f"run-{day}-00000.parquet")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    labelled = [("a", "rock", 0.9), ("b", "rock", 0.5), ("c", "pop", 0.7)]
    failed = [("d", Reason.CORRUPT), ("e", Reason.CORRUPT), ("f", Reason.NOT_FOUND)]
    write(folder, "predictions", PredictionRow, [prediction(*row) for row in labelled])
    write(folder, "failures", FailureRow, [failure(*row) for row in failed])
    return folder


def queries() -> list[str]:
    return re.findall(r"```sql\n(.*?)```", OUTPUT_MD, re.DOTALL)


def run(query: str, output: Path) -> list[tuple]:
    return duckdb.sql(query.replace("OUTPUT", str(output))).fetchall()


def test_genre_shares(output):
    assert run(queries()[0], output) == [("rock", 2, 66.7), ("pop", 1, 33.3)]


def test_least_confident_first(output):
    found = run(queries()[1], output)
    assert [row[0] for row in found] == ["b", "c", "a"]
    assert found[0][3:] == ("other", ["silent"])


def test_failures_by_reason(output):
    assert [row[:3] for row in run(queries()[2], output)] == [
        ("Decode", "corrupt", 2),
        ("Decode", "not_found", 1),
    ]


@pytest.fixture
def two_runs(tmp_path) -> Path:
    """Of the 2nd and the 3rd: a is labelled twice, d after it failed, e fails again, f is labelled
    and fails later."""
    for day, labelled, failed in ((2, "abf", "de"), (3, "ad", "ef")):
        rows = [prediction(uri, f"label {day}", 0.5, day) for uri in labelled]
        rows += [prediction("a", f"label {day}", 0.5, day, track_id="7")]  # another listing
        write(tmp_path, "predictions", PredictionRow, rows, day)
        windows = [window(uri, index, day) for uri in labelled for index in range(2)]
        write(tmp_path, "windows", WindowRow, windows, day)
        failures = [failure(uri, Reason.CORRUPT, day) for uri in failed]
        write(tmp_path, "failures", FailureRow, failures, day)
    return tmp_path


def test_the_latest_of_several_runs(two_runs):
    database = duckdb.connect()
    for query in queries()[3:]:
        database.execute(query.replace("OUTPUT", str(two_runs)))
    found = database.execute("SELECT uri, run_id FROM latest ORDER BY uri").fetchall()
    assert found == [("a", "run-3"), ("b", "run-2"), ("d", "run-3"), ("f", "run-2")]
    found = database.execute("SELECT uri, run_id FROM latest_windows ORDER BY uri").fetchall()
    assert found == [row for row in (("a", "run-3"), ("b", "run-2"), ("d", "run-3"),
                                     ("f", "run-2")) for _ in range(2)]  # fmt: skip
    found = database.execute("SELECT uri, run_id FROM latest_failures ORDER BY uri").fetchall()
    assert found == [("e", "run-3"), ("f", "run-3")]


@pytest.mark.parametrize("code", [*Reason, *DecodeWarning])
def test_every_code_is_documented(code):
    assert re.search(rf"^\|[^|]*\b{code.value}\b", OUTPUT_MD, re.MULTILINE)


@pytest.mark.parametrize("row_class", [PredictionRow, WindowRow, FailureRow])
def test_every_column_is_documented(row_class):
    names = schema_of(row_class).names
    assert [name for name in names if not re.search(rf"\b{name}\b", OUTPUT_MD)] == []


def test_every_column_of_enhanced_tracks_is_documented():
    names = schema_of(EnhancedRow).names
    assert [name for name in names if not re.search(rf"\b{name}\b", ENHANCEMENT_MD)] == []


@pytest.mark.parametrize("row_class", [LabelRow, StreamFailureRow])
def test_every_column_of_streams_is_documented(row_class):
    text = (ROOT / "docs" / "streaming.md").read_text()
    names = schema_of(row_class).names
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_how_loud_the_removed_part_was(tmp_path):
    row = dict.fromkeys(schema_of(EnhancedRow).names)
    levels = {"a": (0.1, 0.05), "b": (0.1, 0.1), "silent": (0.0, 0.0)}
    rows = [{**row, "uri": uri, "rms_before": before, "rms_after": after, "clipped_samples": 0}
            for uri, (before, after) in levels.items()]  # fmt: skip
    write(tmp_path, "enhanced", EnhancedRow, rows)
    (query,) = re.findall(r"```sql\n(.*?)```", ENHANCEMENT_MD, re.DOTALL)
    assert run(query, tmp_path) == [("a", -6.0, 0), ("b", 0.0, 0)]


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", sorted(ROOT.glob("docs/*.md")))
def test_tests_that_are_named_are_there(document):
    named = re.findall(r"`(?:pytest )?(tests/[\w/.]+)`", document.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []
