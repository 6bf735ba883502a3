"""The books: what balances, and that a run fails where they do not."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from transforms.books import Books, CloseBooks, read_books, to_books
from transforms.errors import BooksError

LISTED = [(("listed", ""), 4), (("listed", ""), 6)]
SKIPPED = [(("skipped", "labelled"), 2), (("skipped", "failed"), 1), (("skipped", "labelled"), 1)]
PUBLISHED = [
    (("labelled", "pop"), 2),
    (("labelled", "unknown"), 1),
    (("failed", "corrupt"), 2),
    (("failed", "unreadable"), 1),
]
BALANCED = Books(
    listed=10,
    labelled=3,
    failed=3,
    skipped=4,
    labelled_by_label={"pop": 2, "unknown": 1},
    failed_by_reason={"corrupt": 2, "unreadable": 1},
    skipped_by_outcome={"labelled": 3, "failed": 1},
)


def close(path, *, listed=LISTED, skipped=SKIPPED, published=PUBLISHED, expected=BALANCED):
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        collections = tuple(
            pipeline | str(number) >> beam.Create(counts)
            for number, counts in enumerate((listed, skipped, published))
        )
        books = collections | CloseBooks(str(path))
        assert_that(books, equal_to([expected]))


def test_balanced_books_are_counted_and_written(tmp_path):
    close(tmp_path / "books.json")
    assert read_books(str(tmp_path / "books.json")) == BALANCED
    assert [path.name for path in tmp_path.iterdir()] == ["books.json"]


def test_books_of_nothing_balance(tmp_path):
    close(tmp_path / "books.json", listed=[], skipped=[], published=[], expected=Books(0, 0, 0, 0))
    assert read_books(str(tmp_path / "books.json")) == Books(0, 0, 0, 0)


@pytest.mark.parametrize("order", [1, -1])
def test_counts_add_up_in_any_order(order):
    books = to_books([*LISTED, *SKIPPED, *PUBLISHED][::order])
    assert books == BALANCED
    assert list(books.labelled_by_label) == ["pop", "unknown"]  # what is written is in order


def test_an_outcome_that_nobody_knows_is_no_count():
    with pytest.raises(KeyError):
        to_books([(("vanished", ""), 1)])


@pytest.mark.parametrize(
    ("changed", "outcomes"),
    [
        ({"published": PUBLISHED[1:]}, "1 labelled + 3 failed + 4 skipped = 8"),  # lost
        ({"published": PUBLISHED * 2}, "6 labelled + 6 failed + 4 skipped = 16"),  # doubled
        ({"published": PUBLISHED[:-1]}, "3 labelled + 2 failed + 4 skipped = 9"),
        ({"published": []}, "0 labelled + 0 failed + 4 skipped = 4"),
        ({"skipped": []}, "3 labelled + 3 failed + 0 skipped = 6"),
    ],
    ids=["lost row", "doubled rows", "lost failure", "nothing came out", "lost skip"],
)
def test_unbalanced_books_fail_the_pipeline(tmp_path, changed, outcomes):
    with pytest.raises(Exception, match="the books do not balance: 10 inputs, but ") as caught:
        close(tmp_path / "books.json", **changed)
    assert "BooksError" in f"{type(caught.value).__name__} {caught.value!r} {caught.value}"
    assert outcomes in str(caught.value)
    written = json.loads((tmp_path / "books.json").read_text())  # for whoever looks into it
    assert written["listed"] == 10


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


def test_what_failed_before_a_run_was_killed_is_a_failure_of_the_one_that_goes_on():
    books = Books(8, 4, 1, 3, skipped_by_outcome={"labelled": 2, "failed": 1})
    assert books.failure_rate == 0.25
