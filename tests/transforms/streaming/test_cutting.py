"""Cutting: no sample is lost, added or moved, whatever the pieces that come and the blocks."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.streaming.blocks import MAX_BLOCK_BYTES, decode_block, encode_block
from transforms.streaming.cutting import Cutter, Sound

KINDS = [("pcm_s16le", 8_000, 1), ("pcm_s16le", 44_100, 2), ("pcm_f32le", 11_025, 3)]
WIDTH = {"pcm_s16le": 2, "pcm_f32le": 4}


def sound(kind: tuple[str, int, int], frames: int, mark: int = 0) -> Sound:
    """Bytes that tell where they belong."""
    encoding, rate, channels = kind
    size = frames * channels * WIDTH[encoding]
    payload = (np.arange(mark, mark + size) % 251).astype(np.uint8).tobytes()
    return Sound(encoding=encoding, sample_rate_hz=rate, channels=channels, payload=payload)


def cut(cutter: Cutter, sounds: list[Sound]) -> list:
    return [*(block for one in sounds for block in cutter.add(one)), *cutter.end()]


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 700)), min_size=1),
    block_seconds=st.floats(1e-4, 0.05),
)
def test_every_sample_is_where_it_was(lengths, block_seconds):
    sounds, mark = [], 0
    for kind, frames in lengths:
        sounds.append(sound(kind, frames, mark))
        mark += len(sounds[-1].payload)
    blocks = cut(Cutter("s", 5, 1_000_000, block_seconds), sounds)

    assert b"".join(block.payload for block in blocks) == b"".join(one.payload for one in sounds)
    assert [block.sequence for block in blocks] == list(range(len(blocks)))
    lasts = [False] * (len(blocks) - 1) + [True]
    assert [block.last for block in blocks] == lasts[: len(blocks)]
    assert {(block.stream_id, block.session) for block in blocks} <= {("s", 5)}
    elapsed = Fraction(0)
    for block in blocks:
        assert abs(block.event_time_us - 1_000_000 - 1_000_000 * elapsed) <= Fraction(1, 2)
        elapsed += Fraction(block.frames, block.sample_rate_hz)
    for block, following in itertools.pairwise(blocks):
        if (block.encoding, block.channels) == (following.encoding, following.channels):
            assert block.frames == max(1, round(block_seconds * block.sample_rate_hz))


@settings(deadline=None)
@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=20))
def test_the_pieces_do_not_matter(lengths):
    kind = KINDS[1]
    one = sound(kind, sum(lengths))
    cuts = np.cumsum([0, *lengths]) * 4
    parts = [
        Sound(encoding=kind[0], sample_rate_hz=kind[1], channels=kind[2], payload=one.payload[a:b])
        for a, b in itertools.pairwise(cuts)
    ]
    assert cut(Cutter("s", 0, 7, 0.02), parts) == cut(Cutter("s", 0, 7, 0.02), [one])


@pytest.mark.parametrize("block_seconds", [100.0, 1e9])
def test_no_block_is_too_large(block_seconds):
    wide = sound(("pcm_f32le", 384_000, 32), 20_000)
    cutter = Cutter("x" * 128, 2**61, 2**56, block_seconds)
    sizes = [len(encode_block(block)) for block in cut(cutter, [wide])]
    assert max(sizes) <= MAX_BLOCK_BYTES
    assert len(sizes) == 3


def test_what_is_left_of_a_session():
    cutter = Cutter("s", 0, 0, 0.1)
    assert len(list(cutter.add(sound(KINDS[0], 900)))) == 1
    (rest,) = cutter.rest()
    assert (rest.frames, rest.last) == (100, False)
    assert list(cutter.rest()) == []
    (end,) = cutter.end()
    assert (end.payload, end.last, end.event_time_us, end.sequence) == (b"", True, 112_500, 2)
    assert decode_block(encode_block(end)) == end


def test_without_sound_there_is_no_block():
    assert list(Cutter("s", 0, 0).end()) == []


def test_a_day_does_not_drift():
    cutter, kind = Cutter("s", 0, 0, 0.25), ("pcm_s16le", 11_025, 1)
    for _ in range(100):  # 2,756.25 frames would be a quarter of a second
        last = list(cutter.add(sound(kind, 11_025)))[-1]
    assert last.event_time_us == round(Fraction(1_000_000 * last.sequence * 2_756, 11_025))


def test_the_beginning_of_sound():
    one = sound(KINDS[1], 1_000)
    assert one.seconds == Fraction(1_000, 44_100)
    assert one.first(Fraction("0.01")).payload == one.payload[: 441 * 4]
    assert one.first(Fraction(5)) == one
