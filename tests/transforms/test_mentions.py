"""From mentions to tracks: merging, what is known, and what may be the same bytes."""

from __future__ import annotations

import datetime as dt
import itertools
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rows import MODIFIED, PROVENANCE, failed_rows, labelled_rows, published
from transforms.errors import Reason, StageError
from transforms.mentions import (
    Mention,
    check_name,
    list_mentions,
    merge,
    printable,
    unknown_part,
    with_copies,
)
from transforms.records import Listing, Track
from transforms.storage.known import KnownRows, load_known

LATE = 1_700_000_000_000_001


# Merging


def test_one_mention_is_a_track_of_one_listing():
    mention = Mention("a", 5, LATE, "1", {"mood": "calm"})
    when = dt.datetime(2023, 11, 14, 22, 13, 20, 1, dt.timezone.utc)
    assert merge("a", [mention]) == Track("a", 5, when, (Listing("1", {"mood": "calm"}),))
    assert merge("a", [Mention("a")]) == Track("a")


def test_times_keep_their_microseconds():
    for microseconds in (0, 1, 999_999, 253_402_300_799_999_999):
        modified_at = merge("a", [Mention("a", 5, microseconds)]).modified_at
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
        assert (modified_at - epoch) // dt.timedelta(microseconds=1) == microseconds


def test_a_globs_mention_adds_nothing_to_a_manifests():
    mentions = [
        Mention("a"),
        Mention("a", track_id="1"),
        Mention("a"),
        Mention("a", columns={"b": 1}),
    ]
    assert merge("a", mentions).listings == (Listing(None, {"b": 1}), Listing("1"))


MENTIONS = st.builds(
    Mention,
    uri=st.just("a"),
    size_bytes=st.none() | st.integers(0, 3),
    modified_us=st.none() | st.integers(0, 3),
    track_id=st.sampled_from([None, "1", "2"]),
    columns=st.sampled_from([{}, {"mood": "calm"}, {"mood": None}, {"day": dt.date(2020, 1, 2)}]),
)


@given(st.lists(MENTIONS, min_size=1, max_size=6), st.randoms())
def test_order_and_repetition_of_mentions_do_not_matter(mentions, random):
    merged = merge("a", mentions)
    again = [*mentions, *random.sample(mentions, random.randint(0, len(mentions)))]
    random.shuffle(again)
    assert merge("a", again) == merged
    assert len(set(map(repr, merged.listings))) == len(merged.listings) >= 1
    for mention in mentions:
        plain = mention.track_id is None and not mention.columns
        assert plain or mention.listing in merged.listings


@pytest.mark.parametrize("modified_us", [-1, 0, 1])
def test_what_could_be_looked_up_outweighs_what_could_not(modified_us):
    mentions = [Mention("a"), Mention("a", 0, modified_us), Mention("a", 5)]
    for order in itertools.permutations(mentions):
        track = merge("a", order)
        assert track.size_bytes == 0
        assert track.modified_at is not None


# Names


def test_a_name_that_is_valid_stays_as_it_is():
    assert printable("/ünï 日本/🎵.mp3") == "/ünï 日本/🎵.mp3"
    check_name([Mention("a"), Mention("b")])


def test_a_name_that_is_not_is_escaped_and_refused():
    raw = os.fsdecode(b"/caf\xe9.mp3")
    assert printable(raw) == "/caf\\udce9.mp3"
    with pytest.raises(StageError, match="UTF-8") as caught:
        check_name([Mention("a"), Mention("b", valid_name=False)])
    assert caught.value.reason is Reason.UNREADABLE


def test_mentions_of_a_manifest_in_their_order(tmp_path):
    """More rows than are looked up at a time."""
    (tmp_path / "0.mp3").write_bytes(b"123")
    os.utime(tmp_path / "0.mp3", ns=(0, LATE * 1_000))
    rows = [f"{number}.mp3,{number}" for number in range(2_500)]
    (tmp_path / "m.csv").write_text("\n".join(["uri,track_id", *rows]) + "\n")
    mentions = list(list_mentions(f"{tmp_path}/m.csv", None))
    assert [mention.track_id for mention in mentions] == [str(number) for number in range(2_500)]
    assert mentions[0] == Mention(f"{tmp_path}/0.mp3", 3, LATE, "0", {})
    assert mentions[1] == Mention(f"{tmp_path}/1.mp3", None, None, "1", {})


# What is known


@pytest.fixture
def known(tmp_path):
    """``1`` and ``2`` of a.mp3 are labelled, ``4`` has failed in a run that is gone on with."""
    labelled = Track("a.mp3", 1_000, MODIFIED, (Listing("1"), Listing("2")))
    failed = Track("a.mp3", 1_000, MODIFIED, (Listing("4"),))
    for run_id, rows in (("run-0", labelled_rows(labelled)), ("run-1", failed_rows(failed))):
        published(tmp_path, rows, run_id)
    return load_known(
        KnownRows(
            str(tmp_path), "run-2", PROVENANCE.model_fingerprint,
            PROVENANCE.front_end_fingerprint, resumed_runs=("run-1",),
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("listed", "left", "skipped"),
    [
        ("12", "", {"labelled": 2}),
        ("1234", "3", {"labelled": 2, "failed": 1}),
        ("4", "", {"failed": 1}),
        ("35", "35", {}),
    ],
)
def test_known_listings_are_left_out(known, listed, left, skipped):
    def of(names):
        return Track("a.mp3", 1_000, MODIFIED, tuple(Listing(name) for name in names))

    expected = of(left) if left else None
    assert unknown_part(of(listed), known) == (expected, Counter(skipped))


def test_where_nothing_is_known_nothing_is_left_out():
    track = Track("a.mp3", 5)
    assert unknown_part(track, None) == (track, Counter())


# Copies


def write(folder, **contents) -> list[Track]:
    tracks = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        tracks.append(Track(str(folder / name), len(content)))
    return tracks


def groups(tracks) -> list[str]:
    """Names of the members of each track."""
    return sorted(
        "".join(os.path.basename(m.uri) for m in one.members) for one in with_copies(tracks)
    )


def test_equal_bytes_meet_and_others_stay_apart(tmp_path):
    long = bytes(range(256)) * 100
    tracks = write(
        tmp_path, a=long, b=long[::-1], c=long, d=long[1:], e=long, f=b"x", g=b"y", h=b"x"
    )
    for order in itertools.islice(itertools.permutations(tracks), 0, 40_320, 5_003):
        assert groups(order) == ["ace", "b", "d", "fh", "g"]


def test_a_difference_between_the_probed_places_is_left_to_decode(tmp_path):
    content = bytearray(100_000)
    tracks = write(tmp_path, a=bytes(content))
    content[20_000] = 1
    tracks += write(tmp_path, b=bytes(content))
    assert groups(tracks) == ["ab"]  # likely the same; Decode hashes them


def test_empty_files_and_unknown_sizes_are_no_copies(tmp_path):
    tracks = write(tmp_path, a=b"", b=b"")
    tracks += [Track("/no/such/c"), Track("/no/such/d")]
    assert groups(tracks) == ["a", "b", "c", "d"]


def test_what_cannot_be_read_is_like_no_other(tmp_path):
    tracks = write(tmp_path, a=b"12345", b=b"12345")
    tracks += [Track("/no/such/c", 5), Track("/no/such/d", 5)]
    assert groups(tracks) == ["ab", "c", "d"]


def test_a_file_that_is_alone_of_its_size_is_not_even_opened(monkeypatch):
    assert groups([Track("/no/such/a", 5), Track("/no/such/b", 6)]) == ["a", "b"]

    def opened(*_):
        raise AssertionError

    monkeypatch.setattr("transforms.mentions.probe", opened)
    assert groups([Track("/no/such/a", 5), Track("/no/such/b", 6)]) == ["a", "b"]


def test_copies_keep_their_own_listings_and_times(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "b").write_bytes(b"12345")
    a = Track(f"{tmp_path}/a", 5, MODIFIED, (Listing("1"), Listing("2")))
    b = Track(f"{tmp_path}/b", 5, None, (Listing("3"),))
    (one,) = with_copies([b, a])
    assert one.members[0].listings == a.listings
    assert one.copies == (b,)
    assert (one.uri, one.modified_at) == (a.uri, MODIFIED)
