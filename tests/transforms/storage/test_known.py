"""What counts as done already, and what does not."""

from __future__ import annotations

import dataclasses
import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rows import MODIFIED, PROVENANCE, failed_rows, labelled_rows, published, track
from transforms.errors import Reason
from transforms.records import Listing, Track
from transforms.storage.extras import EXTRAS
from transforms.storage.known import (
    Known,
    KnownRows,
    bytes_key,
    content_key,
    load_known,
    microseconds,
    version_key,
)

PLAIN = Listing()
NEXT = KnownRows(
    output="",
    run_id="this",
    model_fingerprint=PROVENANCE.model_fingerprint,
    front_end_fingerprint=PROVENANCE.front_end_fingerprint,
)


def known(output, **changes):
    load_known.cache_clear()
    return load_known(dataclasses.replace(NEXT, output=str(output), **changes))


# By version


def test_an_unchanged_file_is_known(tmp_path):
    published(tmp_path, labelled_rows())
    assert known(tmp_path).outcome(track(), PLAIN) == "labelled"


@pytest.mark.parametrize(
    "changes",
    [
        {"uri": "A.mp3"},
        {"size_bytes": 1_001},
        {"size_bytes": None},
        {"modified_at": MODIFIED + dt.timedelta(microseconds=1)},
        {"modified_at": MODIFIED - dt.timedelta(days=1)},
        {"modified_at": None},
    ],
    ids=str,
)
def test_a_changed_file_is_not(tmp_path, changes):
    published(tmp_path, labelled_rows())
    assert known(tmp_path).outcome(dataclasses.replace(track(), **changes), PLAIN) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"model_fingerprint": "another"},
        {"front_end_fingerprint": "another"},
        {"extras": frozenset({"embeddings"})},
        {"extras": frozenset({"features"})},
        {"by_version": False},
    ],
    ids=str,
)
def test_rows_of_another_kind_do_not_count(tmp_path, changes):
    published(tmp_path, labelled_rows())
    assert known(tmp_path, **changes).outcome(track(), PLAIN) is None


@pytest.mark.parametrize("rows_have", [*({name} for name in EXTRAS), set(EXTRAS)], ids=str)
def test_rows_count_for_runs_that_ask_for_no_more(tmp_path, rows_have):
    published(tmp_path, labelled_rows(), extras=rows_have)
    for asked in (set(), {"embeddings"}, {"features"}, {"embeddings", "features"}):
        outcome = known(tmp_path, extras=frozenset(asked)).outcome(track(), PLAIN)
        assert outcome == ("labelled" if asked <= rows_have else None), asked


def test_a_zone_is_no_other_time(tmp_path):
    published(tmp_path, labelled_rows())
    east = dt.timezone(dt.timedelta(hours=9))
    there = dataclasses.replace(track(), modified_at=MODIFIED.astimezone(east))
    assert known(tmp_path).outcome(there, PLAIN) == "labelled"


def test_a_file_without_a_time_is_never_known_by_version(tmp_path):
    timeless = Track("a.mp3", 1_000, None)
    published(tmp_path, labelled_rows(timeless))
    assert known(tmp_path).outcome(timeless, PLAIN) is None
    assert known(tmp_path).has_content("a.mp3", "c0ffee", PLAIN)


def test_a_key_without_a_time_says_nothing():
    key = np.array([version_key("a.mp3", 1_000, None)], dtype="S16")
    none = np.array([], dtype="S16")
    timeless = Track("a.mp3", 1_000, None)
    assert Known(key, none, by_version=True).outcome(timeless, PLAIN) is None
    assert Known(none, key, by_version=True).outcome(timeless, PLAIN) == "failed"


# Listings


def test_a_listing_of_ones_own_needs_its_own_row(tmp_path):
    published(tmp_path, labelled_rows(track("a.mp3", Listing("1"), Listing("2"))))
    rows = known(tmp_path)
    outcomes = {name: rows.outcome(track(), Listing(name)) for name in ("1", "2", "3", None)}
    assert outcomes == {"1": "labelled", "2": "labelled", "3": None, None: "labelled"}


def test_a_plain_row_is_none_for_a_listing_of_its_own(tmp_path):
    published(tmp_path, labelled_rows())
    assert known(tmp_path).outcome(track(), Listing("1")) is None
    assert not known(tmp_path).has_content("a.mp3", "c0ffee", Listing("1"))


# By content


def test_equal_bytes_under_the_same_name_are_known(tmp_path):
    published(tmp_path, labelled_rows(track("a.mp3", Listing("1"))))
    for by_version in (True, False):
        rows = known(tmp_path, by_version=by_version)
        assert rows.has_content("a.mp3", "c0ffee", PLAIN)
        assert rows.has_content("a.mp3", "c0ffee", Listing("1"))
        assert not rows.has_content("a.mp3", "c0ffee", Listing("2"))
        assert not rows.has_content("a.mp3", "beef", PLAIN)
        assert not rows.has_content("b.mp3", "c0ffee", PLAIN)
        assert rows.has_bytes("c0ffee")
        assert not rows.has_bytes("beef")
    others = known(tmp_path, model_fingerprint="x")
    assert not others.has_content("a.mp3", "c0ffee", PLAIN)
    assert not others.has_bytes("c0ffee")


def test_keys_do_not_collide():
    keys = [
        version_key("a", 1, 2),
        version_key("a", 12, None),
        version_key("a", 1, None),
        version_key("a", None, 1),
        version_key("a", 1, 2, "b"),
        version_key("b", 1, 2),
        content_key("a", "1"),
        content_key("a", "1", "2"),
        content_key("a", "12"),
        bytes_key("1"),
        bytes_key("a"),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {16}


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (None, None),
        (dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc), 0),
        (dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, dt.timezone.utc), -1),
        (MODIFIED, 1_709_251_199_123_456),
        (dt.datetime(9999, 12, 31, tzinfo=dt.timezone.utc), 253_402_214_400_000_000),
    ],
)
def test_microseconds(when, expected):
    assert microseconds(when) == expected


def test_what_is_said_of_a_listing_for_the_first_time(tmp_path):
    published(tmp_path, labelled_rows("a.mp3") + failed_rows("b.mp3"))
    rows = known(tmp_path, resumed_runs=("run-1",))
    for uri, outcome in (("a.mp3", "labelled"), ("b.mp3", "failed")):
        assert rows.first_outcome(track(uri), PLAIN) == (outcome, True)
        assert rows.first_outcome(track(uri), PLAIN) == (outcome, False)
        assert rows.outcome(track(uri), PLAIN) == outcome
    for _ in range(2):
        assert rows.first_outcome(track("c.mp3"), PLAIN) == (None, True)


# Failures


def test_what_failed_is_tried_again_by_a_new_run(tmp_path):
    published(tmp_path, failed_rows())
    assert known(tmp_path).outcome(track(), PLAIN) is None
    assert known(tmp_path, resumed_runs=("run-0",)).outcome(track(), PLAIN) is None


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        ("not_found", "failed"), ("permission_denied", None), ("unreadable", None),
        ("empty_file", "failed"), ("not_audio", "failed"), ("unsupported_codec", "failed"),
        ("corrupt", "failed"), ("too_short", "failed"), ("timeout", None),
        ("out_of_memory", None), ("decoder_crash", None), ("invalid_samples", "failed"),
        ("invalid_image", "failed"), ("invalid_scores", "failed"), ("incomplete", None),
        ("internal_error", None),
    ],
)  # fmt: skip
def test_what_may_not_have_been_the_file_s_fault_is_tried_again_all_the_same(
    tmp_path, reason, outcome
):
    published(tmp_path, failed_rows(reason=Reason(reason)))
    rows = known(tmp_path, resumed_runs=("run-1",))
    assert rows.outcome(track(), PLAIN) == outcome


def test_what_failed_in_a_run_that_is_gone_on_with_is_not(tmp_path):
    published(tmp_path, failed_rows("a.mp3") + failed_rows(track("b.mp3", Listing("1"))))
    rows = known(tmp_path, resumed_runs=("run-0", "run-1"))
    assert rows.outcome(track(), PLAIN) == "failed"
    assert rows.outcome(track("b.mp3"), Listing("1")) == "failed"
    assert rows.outcome(track("b.mp3"), Listing("2")) is None
    assert rows.outcome(Track("a.mp3", 999, MODIFIED), PLAIN) is None
    assert rows.outcome(Track("a.mp3", 1_000, None), PLAIN) is None
    assert not rows.has_content("a.mp3", "c0ffee", PLAIN)


def test_a_missing_file_of_a_run_that_is_gone_on_with(tmp_path):
    """It has neither size nor time: it fails once, not at each start."""
    missing = Track("missing.mp3")
    published(tmp_path, failed_rows(missing))
    assert known(tmp_path, resumed_runs=("run-1",)).outcome(missing, PLAIN) == "failed"
    appeared = Track("missing.mp3", 5, MODIFIED)
    assert known(tmp_path, resumed_runs=("run-1",)).outcome(appeared, PLAIN) is None


@pytest.mark.parametrize("changes", [{"model_fingerprint": "x"}, {"front_end_fingerprint": "x"}])
def test_failures_of_another_model_do_not_count(tmp_path, changes):
    published(tmp_path, failed_rows())
    assert known(tmp_path, resumed_runs=("run-1",), **changes).outcome(track(), PLAIN) is None


def test_the_rows_of_the_run_that_asks_do_not_count(tmp_path):
    """Of which a cluster may repeat a part when it has published."""
    for run_id in ("another", "this"):
        published(tmp_path, labelled_rows(track(f"{run_id}.mp3")), run_id=run_id)
    rows = known(tmp_path)
    assert rows.outcome(track("another.mp3"), PLAIN) == "labelled"
    assert rows.outcome(track("this.mp3"), PLAIN) is None


def test_a_run_is_not_taken_for_one_whose_name_begins_so(tmp_path):
    published(tmp_path, failed_rows(), run_id="run-10")
    assert known(tmp_path, resumed_runs=("run-1",)).outcome(track(), PLAIN) is None
    assert known(tmp_path, resumed_runs=("run-10",)).outcome(track(), PLAIN) == "failed"


def test_failures_count_even_where_versions_of_labelled_files_do_not(tmp_path):
    published(tmp_path, labelled_rows("a.mp3") + failed_rows("b.mp3"))
    rows = known(tmp_path, resumed_runs=("run-1",), by_version=False)
    assert rows.outcome(track("a.mp3"), PLAIN) is None
    assert rows.outcome(track("b.mp3"), PLAIN) == "failed"


# The datasets


def test_nothing_is_known_of_an_output_that_is_not_there(tmp_path):
    rows = known(tmp_path / "nothing", resumed_runs=("run-1",))
    assert rows.outcome(track(), PLAIN) is None
    assert not rows.has_content("a.mp3", "c0ffee", PLAIN)


def test_every_one_of_many_is_known(tmp_path):
    """Digests are any bytes: 1 in 256 ends in a zero."""
    listings = [Listing(str(number)) for number in range(3_000)]
    published(tmp_path, labelled_rows(track("a.mp3", *listings)))
    rows = known(tmp_path)
    assert {rows.outcome(track(), listing) for listing in listings} == {"labelled"}
    assert all(rows.has_content("a.mp3", "c0ffee", listing) for listing in listings)
    others = [Listing(str(number)) for number in range(3_000, 9_000)]
    assert {rows.outcome(track(), listing) for listing in others} == {None}


def test_rows_of_several_runs_and_files_add_up(tmp_path):
    for number in range(3):
        run_id = f"run-{number}"
        published(tmp_path, labelled_rows(f"{number}.mp3", run_id=run_id), run_id=run_id)
    rows = known(tmp_path)
    found = [rows.outcome(track(f"{number}.mp3"), PLAIN) for number in range(4)]
    assert found == ["labelled", "labelled", "labelled", None]


def test_what_is_no_parquet_file_is_passed_over(tmp_path):
    published(tmp_path, labelled_rows())
    folder = tmp_path / "predictions"
    for name in (".run-1-00001.parquet.tmp", ".hidden.parquet", "notes.txt"):
        (folder / name).write_text("no Parquet")
    assert known(tmp_path).outcome(track(), PLAIN) == "labelled"


def test_a_broken_file_is_not_passed_over(tmp_path):
    published(tmp_path, labelled_rows())
    (tmp_path / "predictions" / "run-9-00000.parquet").write_text("no Parquet")
    with pytest.raises(Exception, match="Parquet"):
        known(tmp_path)


def test_an_output_on_an_object_store(memory_files):
    output = published("memtest://bucket/out", labelled_rows("a.mp3") + failed_rows("b.mp3"))
    rows = known(output, resumed_runs=("run-1",))
    assert rows.outcome(track("a.mp3"), PLAIN) == "labelled"
    assert rows.outcome(track("b.mp3"), PLAIN) == "failed"
    assert rows.outcome(track("c.mp3"), PLAIN) is None


# Several rows of one file


def later(rows, seconds, **changes):
    """The same rows as made some time later, with other columns."""
    when = "labelled_at" if "label" in rows[0] else "failed_at"
    return [row | {when: row[when] + dt.timedelta(seconds=seconds)} | changes for row in rows]


def test_only_the_newest_row_counts(tmp_path):
    published(tmp_path, labelled_rows(), "run-0")
    other = later(labelled_rows(), 60, content_sha256="0ther", size_bytes=7)
    published(tmp_path, other, "run-1")
    rows = known(tmp_path)
    assert rows.outcome(track(), PLAIN) is None
    assert not rows.has_content("a.mp3", "c0ffee", PLAIN)
    assert rows.has_content("a.mp3", "0ther", PLAIN)
    assert rows.has_bytes("c0ffee")  # its scores can be had


def test_an_older_row_written_later_does_not_hide_a_newer_one(tmp_path):
    published(tmp_path, later(labelled_rows(), 60), "run-0")
    published(tmp_path, later(labelled_rows(), 0, size_bytes=7), "run-1")
    assert known(tmp_path).outcome(track(), PLAIN) == "labelled"


def test_a_file_that_failed_since_is_not_known(tmp_path):
    published(tmp_path, labelled_rows(), "run-0")
    published(tmp_path, later(failed_rows(), 3_600), "run-1")
    rows = known(tmp_path)
    assert rows.outcome(track(), PLAIN) is None
    assert rows.has_bytes("c0ffee")


def test_a_file_that_failed_before_is(tmp_path):
    published(tmp_path, later(failed_rows(), -3_600), "run-0")
    published(tmp_path, labelled_rows(), "run-1")
    assert known(tmp_path).outcome(track(), PLAIN) == "labelled"


def test_resumed_runs_alone_count_when_all_is_to_be_labelled_anew(tmp_path):
    published(tmp_path, labelled_rows("a.mp3"), "run-0")
    published(tmp_path, labelled_rows("b.mp3"), "run-1")
    rows = known(tmp_path, resumed_only=True, resumed_runs=("run-1",))
    assert rows.outcome(track("a.mp3"), PLAIN) is None
    assert rows.outcome(track("b.mp3"), PLAIN) == "labelled"


def test_a_file_of_another_make_is_passed_over(tmp_path, caplog):
    published(tmp_path, labelled_rows())
    pq.write_table(pa.table({"uri": ["a.mp3"]}), tmp_path / "predictions" / "mine.parquet")
    assert known(tmp_path).outcome(track(), PLAIN) == "labelled"
    assert "mine.parquet is passed over: it has no column" in caplog.text
