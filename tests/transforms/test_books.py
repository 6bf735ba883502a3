"""The books: what balances, and that a run fails where they do not."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.books import Books, CloseBooks, read_books
from transforms.errors import BooksError, Reason
from transforms.records import Failure, Listing, Track

TRACKS = [
    Track("a"),
    Track("b", listings=(Listing("1"), Listing("2"))),
    Track("c", listings=(Listing("3"), Listing("4"), Listing("5"))),
]
READ_FAILURES = [Failure("x", "ReadFiles", Reason.UNREADABLE, "")]
PREDICTIONS = [{"label": "pop"}, {"label": "unknown"}, {"label": "pop"}]
FAILURES = [{"reason": "corrupt"}] * 3 + [{"reason": "unreadable"}]
BALANCED = Books(7, 3, 4, 0, {"pop": 2, "unknown": 1}, {"corrupt": 3, "unreadable": 1})


def close(path, *, predictions=PREDICTIONS, failures=FAILURES, expected=BALANCED):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        collections = {
            "tracks": TRACKS,
            "read_failures": READ_FAILURES,
            "predictions": predictions,
            "failures": failures,
        }
        books = {
            name: pipeline | name >> beam.Create(items) for name, items in collections.items()
        } | CloseBooks(str(path))
        assert_that(books, equal_to([expected]))


def test_balanced_books_are_counted_and_written(tmp_path):
    close(tmp_path / "books.json")
    assert read_books(str(tmp_path / "books.json")) == BALANCED


@pytest.mark.parametrize(
    ("changed", "outcomes"),
    [
        ({"predictions": PREDICTIONS[1:]}, "2 labelled + 4 failed + 0 skipped = 6"),  # lost
        ({"predictions": PREDICTIONS * 2}, "6 labelled + 4 failed + 0 skipped = 10"),  # doubled
        ({"failures": FAILURES[:-1]}, "3 labelled + 3 failed + 0 skipped = 6"),
        ({"predictions": [], "failures": []}, "0 labelled + 0 failed + 0 skipped = 0"),
    ],
    ids=["lost row", "doubled rows", "lost failure", "nothing came out"],
)
def test_unbalanced_books_fail_the_pipeline(tmp_path, changed, outcomes):
    with pytest.raises(Exception, match="the books do not balance: 7 inputs, but ") as caught:
        close(tmp_path / "books.json", **changed)
    assert "BooksError" in f"{type(caught.value).__name__} {caught.value!r} {caught.value}"
    assert outcomes in str(caught.value)
    written = json.loads((tmp_path / "books.json").read_text())  # for whoever looks into it
    assert written["listed"] == 7


@pytest.mark.parametrize("outcomes", [(5, 3, 1, 1), (0, 0, 0, 0), (1, 0, 0, 1)])
def test_check_accepts(outcomes):
    Books(*outcomes).check()


@pytest.mark.parametrize("outcomes", [(5, 3, 1, 0), (0, 0, 1, 0), (4, 3, 1, 1)])
def test_check_refuses(outcomes):
    with pytest.raises(BooksError, match=f"{outcomes[0]} inputs"):
        Books(*outcomes).check()


@pytest.mark.parametrize(("listed", "failed", "rate"), [(4, 1, 0.25), (0, 0, 0.0), (3, 3, 1.0)])
def test_failure_rate(listed, failed, rate):
    assert Books(listed, listed - failed, failed, 0).failure_rate == rate
