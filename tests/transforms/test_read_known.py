"""ReadFiles over an output of earlier runs: what is left out, and that every listing is counted."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial

import apache_beam as beam
import pytest

from tests.rows import PROVENANCE, failed_rows, labelled_rows, published
from transforms import read
from transforms.books import Books, to_books
from transforms.journal import count_rows
from transforms.mentions import list_mentions, merge
from transforms.read import ReadFiles
from transforms.records import Track
from transforms.storage.known import KnownRows

COLLECTED: dict[str, list] = {}  # FnApiRunner runs in this process


def collect(name, item):
    COLLECTED[name].append(item)


def read_all(inputs, **options) -> tuple[dict[str, Track], Books]:
    """Tracks by name, and the books."""
    COLLECTED.update(tracks=[], counts=[])
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        outputs = pipeline | beam.Create(inputs) | ReadFiles(**options)
        for name in COLLECTED:
            outputs[name] | name >> beam.Map(partial(collect, name))
    tracks = COLLECTED["tracks"]
    by_name = {os.path.basename(one.uri): one for one in tracks}
    assert len(by_name) == len(tracks)
    return by_name, to_books(COLLECTED["counts"])


@pytest.fixture
def music(tmp_path):
    """Files of which an earlier run has labelled a and b, and b has changed since; c failed."""
    folder = tmp_path / "music"
    folder.mkdir()
    for number, name in enumerate("abcd"):
        (folder / name).write_bytes(b"x" * (number + 1))
    rows = []
    for mention in list_mentions(str(folder), None):
        track = merge(mention.uri, [mention])
        name = os.path.basename(track.uri)
        if name in "ab":
            rows += [row | {"size_bytes": track.size_bytes} for row in labelled_rows(track)]
        if name == "c":
            rows += failed_rows(track)
    published(tmp_path, rows)
    (folder / "b").write_bytes(b"other")
    return folder


def known(music, run_id, **changes) -> KnownRows:
    """``run_id`` differs from test to test: what is known is kept for a run."""
    fingerprints = PROVENANCE.model_fingerprint, PROVENANCE.front_end_fingerprint
    return KnownRows(str(music.parent), run_id, *fingerprints, **changes)


@pytest.mark.parametrize("one_input", [True, False])
@pytest.mark.parametrize(
    ("changes", "left", "skipped"),
    [
        ({}, "bcd", {"labelled": 1}),
        ({"resumed_runs": ("run-1",)}, "bd", {"labelled": 1, "failed": 1}),
        ({"by_version": False}, "abcd", {}),
        ({"model_fingerprint": "another"}, "abcd", {}),
    ],
    ids=str,
)
def test_what_is_known_does_not_come(music, one_input, changes, left, skipped):
    rows = known(music, "run-2")
    rows = KnownRows(**{**vars(rows), **changes})
    tracks, books = read_all([str(music)], known=rows, one_input=one_input)
    assert sorted(tracks) == list(left)
    assert (books.listed, books.skipped_by_outcome) == (4, skipped)


@pytest.mark.parametrize("one_input", [True, False])
def test_counts_are_left_in_the_journal(music, one_input):
    journal = str(music.parent / "journal-2")
    read_all([str(music)], known=known(music, "run-3"), journal=journal, one_input=one_input)
    assert count_rows(journal) == {"listed": 4, "skipped": 1}


def test_two_inputs_that_name_a_known_file_skip_it_once(music):
    inputs = [str(music), f"{music}/*", f"{music}/a"]
    tracks, books = read_all(inputs, known=known(music, "run-4"))
    assert sorted(tracks) == ["b", "c", "d"]
    assert (books.listed, books.skipped) == (4, 1)


def test_a_manifest_may_list_a_known_file_anew(music):
    """Under an id of its own it has no row yet; repeated in one manifest it is listed once."""
    (music.parent / "m.csv").write_text("uri,track_id\nmusic/a,7\nmusic/a,7\nmusic/a,\n")
    for one_input in (True, False):
        inputs = [f"{music.parent}/m.csv"]
        tracks, books = read_all(inputs, known=known(music, "run-5"), one_input=one_input)
        assert [listing.track_id for listing in tracks["a"].listings] == ["7"]
        assert books.listed - books.skipped == 1


def test_counts_are_handed_out_once():
    sieve = read._Sieve(None, None)
    sieve.count(3, Counter(labelled=2))
    assert sorted(item.value.value for item in sieve.finish()) == [
        (("listed", ""), 3),
        (("skipped", "labelled"), 2),
    ]
    assert list(sieve.finish()) == []


def test_copies_come_as_one_track(music):
    (music / "e").write_bytes(b"xxxx")  # as d
    (music / "f").write_bytes(b"yyyy")
    tracks, books = read_all([str(music)])
    members = Counter(
        "".join(sorted(os.path.basename(m.uri) for m in one.members)) for one in tracks.values()
    )
    assert members == {"a": 1, "b": 1, "c": 1, "de": 1, "f": 1}
    assert books.listed == 6


def test_a_known_copy_is_not_among_the_copies(music):
    (music / "e").write_bytes(b"x")  # as a, which is known
    tracks, books = read_all([str(music)], known=known(music, "run-6"))
    assert sorted(tracks) == ["b", "c", "d", "e"]
    assert tracks["e"].copies == ()
    assert (books.listed, books.skipped) == (5, 1)
