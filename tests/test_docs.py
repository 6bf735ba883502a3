"""The documents say what is true: their queries run, their closed sets are the code's."""

import datetime as dt
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transforms.errors import Reason
from transforms.readers import DecodeWarning
from transforms.records import FailureRow, PredictionRow, WindowRow, schema_of

ROOT = Path(__file__).parents[1]
OUTPUT_MD = (ROOT / "docs" / "output.md").read_text()
NOW = dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)


def prediction(uri: str, label: str, confidence: float) -> dict:
    top_k = [{"label": label, "score": confidence}, {"label": "other", "score": 1 - confidence}]
    row = dict.fromkeys(schema_of(PredictionRow).names)
    return {**row, "uri": uri, "label": label, "confidence": confidence, "top_k": top_k,
            "decode_warnings": ["silent"], "labelled_at": NOW}  # fmt: skip


def failure(uri: str, reason: Reason) -> dict:
    row = dict.fromkeys(schema_of(FailureRow).names)
    return {**row, "uri": uri, "stage": "Decode", "reason": reason.value, "message": "m"}


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    labelled = [("a", "rock", 0.9), ("b", "rock", 0.5), ("c", "pop", 0.7)]
    failed = [("d", Reason.CORRUPT), ("e", Reason.CORRUPT), ("f", Reason.NOT_FOUND)]
    rows = {
        "predictions": (PredictionRow, [prediction(*row) for row in labelled]),
        "failures": (FailureRow, [failure(*row) for row in failed]),
    }
    for name, (row_class, content) in rows.items():
        (folder / name).mkdir()
        table = pa.Table.from_pylist(content, schema_of(row_class))
        pq.write_table(table, folder / name / "run-0.parquet")
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


def test_newest_row_of_each_track(output):
    assert len(run(queries()[3], output)) == 3


@pytest.mark.parametrize("code", [*Reason, *DecodeWarning])
def test_every_code_is_documented(code):
    assert re.search(rf"^\|[^|]*\b{code.value}\b", OUTPUT_MD, re.MULTILINE)


@pytest.mark.parametrize("row_class", [PredictionRow, WindowRow, FailureRow])
def test_every_column_is_documented(row_class):
    names = schema_of(row_class).names
    assert [name for name in names if not re.search(rf"\b{name}\b", OUTPUT_MD)] == []


@pytest.mark.parametrize("document", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/*.md")))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
