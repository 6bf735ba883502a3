"""What tells the results of one program from those of another, wherever they lie together."""

from __future__ import annotations

import pyarrow as pa
import pytest

from transforms.books import Books, to_books
from transforms.errors import BooksError
from transforms.records import (
    WINDOWS_COLUMN,
    FailureRow,
    PredictionRow,
    journal_schema,
    schema_of,
)
from transforms.results import ENHANCED, LABELS, results_named, results_of

FOREIGN = pa.schema([("label", pa.string()), ("labelled_at", pa.string())])


def test_a_schema_says_whose_rows_it_is_of():
    assert results_of(ENHANCED.schema()) is ENHANCED
    assert results_of(schema_of(PredictionRow, labels=("a", "b"))) is LABELS
    assert results_of(schema_of(FailureRow)) is LABELS


def test_a_manifest_s_columns_do_not_confuse_it():
    """Which may be those of the other program."""
    schema = ENHANCED.schema(extra=FOREIGN)
    assert results_of(schema) is ENHANCED
    assert results_of(journal_schema(schema)) is ENHANCED
    assert WINDOWS_COLUMN not in journal_schema(schema).names
    labels = schema_of(PredictionRow, extra=pa.schema([("enhanced_at", pa.string())]))
    assert results_of(labels) is LABELS
    assert WINDOWS_COLUMN in journal_schema(labels).names


def test_names():
    assert results_named("enhanced") is ENHANCED
    assert results_named("labelled") is results_named(None) is LABELS
    assert "output" in ENHANCED.columns
    assert "output" not in LABELS.columns
    assert "reason" in ENHANCED.columns & LABELS.columns  # of the failures of both


def test_rows_have_what_the_shared_machinery_reads():
    for results in (LABELS, ENHANCED):
        names = schema_of(results.row_class).names
        assert {"uri", "track_id", "size_bytes", "modified_at", "content_sha256", "run_id",
                "model_fingerprint", "front_end_fingerprint", results.time_column,
                results.kind_column} <= set(names)  # fmt: skip


def test_the_books_speak_of_what_was_done():
    counts = [(("listed", ""), 3), (("enhanced", "none"), 2), (("failed", "corrupt"), 1)]
    books = to_books(counts, ENHANCED.done)
    books.check(ENHANCED.done)
    assert books.told(ENHANCED) == {
        "listed": 3, "enhanced": 2, "failed": 1, "skipped": 0,
        "enhanced_by_method": {"none": 2}, "failed_by_reason": {"corrupt": 1},
        "skipped_by_outcome": {},
    }  # fmt: skip
    assert set(books.told()) == set(vars(books))
    with pytest.raises(BooksError, match="3 inputs, but 1 enhanced"):
        Books(3, 1, 1, 0).check(ENHANCED.done)
    with pytest.raises(KeyError):
        to_books(counts)
