from __future__ import annotations

import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_files import sine, write_soundfile
from transforms.streaming.ogg_links import Pages


class Links(list[bytes]):
    """Files by themselves, which are what the links of a chain are."""

    def __repr__(self) -> str:  # Hypothesis shows what it calls with
        return "Links()"


@pytest.fixture(scope="module")
def links(tmp_path_factory) -> Links:
    folder = tmp_path_factory.mktemp("ogg")
    kinds = [(44_100, 2, "VORBIS"), (48_000, 1, "OPUS"), (22_050, 1, "VORBIS")]
    return Links(
        write_soundfile(
            folder / f"{n}.ogg", sine(0.3, rate, channels), rate, "OGG", codec
        ).read_bytes()
        for n, (rate, channels, codec) in enumerate(kinds)
    )


def read_all(content: bytes, pieces: list[int]) -> list[bytes]:
    """The links, with a source that gives and a reader that asks for odd sizes."""
    file, turn = io.BytesIO(content), itertools.cycle(pieces)
    found = []
    for link in Pages(lambda size: file.read(min(size, next(turn)))).links():
        parts = list(iter(lambda link=link: link.read(next(turn)), b""))
        found.append(b"".join(parts))
    return found


@settings(deadline=None)
@given(pieces=st.lists(st.integers(1, 5_000), min_size=1, max_size=5))
def test_each_link_is_what_was_chained(links, pieces):
    assert read_all(b"".join(links), pieces) == links


@settings(deadline=None)
@given(cut=st.integers(0, 60_000))
def test_a_cut_loses_nothing(links, cut):
    whole = b"".join(links)[:cut]
    assert b"".join(read_all(whole, [700])) == whole


@settings(deadline=None)
@given(junk=st.binary(max_size=400), at=st.integers(0, 20_000))
def test_junk_is_passed_on(links, junk, at):
    whole = b"".join(links)
    whole = whole[:at] + junk + whole[at:]
    assert b"".join(read_all(whole, [997])) == whole


def test_what_a_reader_leaves_is_skipped(links):
    file = io.BytesIO(b"".join(links))
    firsts = [link.read(4) for link in Pages(file.read).links()]
    assert firsts == [b"OggS"] * 3


def test_nothing():
    assert read_all(b"", [10]) == [b""]
