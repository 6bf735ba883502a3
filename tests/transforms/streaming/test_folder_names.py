"""Names of files in streams' folders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import Reason, StageError
from transforms.streaming.blocks import Block
from transforms.streaming.folder_names import Blocks, Segments, is_left_out, naming_of


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_the_name_that_a_block_gives_itself(session, sequence):
    name = Block(stream_id="a", session=session, sequence=sequence, event_time_us=0,
                 sample_rate_hz=8_000, channels=1, payload=b"").file_name  # fmt: skip
    assert Blocks().key(name.removeprefix("a/")) == (session, sequence)


@pytest.mark.parametrize(
    "name", ["1.block", "0-1.block", "00-0000000001.block", "0-00000000001.block",
             "0-000000000١.block", "0-0000000001.wav", "x0-0000000001.block",
             "-1-0000000001.block", ".block"]
)  # fmt: skip
def test_no_names_of_blocks(name):
    with pytest.raises(StageError) as caught:
        Blocks().key(name)
    assert caught.value.reason is Reason.MALFORMED_BLOCK


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("000000.wav", {"000001.wav": 1, "999999.wav": 999_999, "1000000.wav": 1_000_000}),
        ("anything000012.flac", {"anything000013.flac": 13}),
        ("out0.ogg", {"out9.ogg": 9, "out10.ogg": 10}),
        ("2026-11-22_007_x.mp3", {"2026-11-22_008_x.mp3": 8, "2026-11-22_1007_x.mp3": 1007}),
        ("kHz44.1-3.opus", {"kHz44.1-4.opus": 4}),
        ("é[1]*02.wav", {"é[1]*03.wav": 3}),
    ],
)
def test_segments_count_in_the_last_digits(first, others):
    naming = naming_of([*reversed(others), first])
    assert isinstance(naming, Segments)
    assert [naming.key(name) for name in others] == [(0, number) for number in others.values()]
    assert [naming.name(number) for number in others.values()] == list(others)


@pytest.mark.parametrize(
    "name", ["b000001.wav", "000001.flac", "00001.wav", "0000001.wav", "1.wav", "a.wav",
             "00000١.wav"]
)  # fmt: skip
def test_other_names_are_no_segments_of_the_same_count(name):
    with pytest.raises(StageError, match="000000.wav"):
        naming_of(["000000.wav"]).key(name)


def test_what_a_folder_holds():
    assert naming_of([]) is None
    assert naming_of(["readme", "live.wav"]) is None
    assert isinstance(naming_of(["000.wav", "0-0000000001.block"]), Blocks)
    assert isinstance(naming_of(["x.block"]), Blocks)
    # The lowest number names the rest.
    assert naming_of(["b1.wav", "a2.wav", "c1.wav"]) == Segments("b", ".wav", 1)


@pytest.mark.parametrize(
    ("name", "left_out"),
    [(".0-0000000001.block", True), ("a1.wav.tmp", True), ("a1.PART", True), ("list.m3u8", True),
     ("list.csv", True), ("a1.wav", False), ("0-0000000001.block", False), ("noend", False)],
)  # fmt: skip
def test_what_is_not_there_yet_or_lies_beside(name, left_out):
    assert is_left_out(name) is left_out
