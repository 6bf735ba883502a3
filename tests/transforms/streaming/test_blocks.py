"""Blocks on the wire: what goes in comes out, and nothing else comes in."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import Reason, StageError
from transforms.streaming.blocks import (
    MAX_BLOCK_BYTES,
    MAX_PAYLOAD_BYTES,
    Block,
    decode_block,
    encode_block,
)
from transforms.streaming.rows import utc


def block(**changes) -> Block:
    fields = {"stream_id": "radio-1", "sequence": 3, "event_time_us": 1_700_000_000_000_000,
              "sample_rate_hz": 8_000, "channels": 1, "payload": b"\x00\x40" * 80}  # fmt: skip
    return Block(**{**fields, **changes})


blocks = st.builds(
    lambda channels, wide, frames, **fields: Block(
        channels=channels,
        encoding="pcm_f32le" if wide else "pcm_s16le",
        payload=bytes(frames * channels * (4 if wide else 2)),
        **fields,
    ),
    channels=st.integers(1, 32),
    wide=st.booleans(),
    frames=st.integers(0, 50),
    stream_id=st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z"),
    session=st.integers(0, 2**62),
    sequence=st.integers(0, 2**62),
    event_time_us=st.integers(0, 2**57),
    sample_rate_hz=st.integers(1_000, 384_000),
    last=st.booleans(),
)


@given(blocks)
def test_there_and_back(one):
    assert decode_block(encode_block(one)) == one


def test_the_wire_is_as_documented():
    content = encode_block(block(last=True))
    assert content[:4] == b"CLB1"
    (length,) = struct.unpack("<I", content[4:8])
    assert json.loads(content[8 : 8 + length]) == {
        "stream_id": "radio-1", "session": 0, "sequence": 3,
        "event_time_us": 1_700_000_000_000_000, "encoding": "pcm_s16le", "sample_rate_hz": 8_000,
        "channels": 1, "last": True,
    }  # fmt: skip
    assert content[8 + length :] == b"\x00\x40" * 80


def test_samples_in_mono():
    pairs = np.array([[16_384, 0], [-32_768, -32_768]], dtype="<i2").tobytes()
    found = block(channels=2, payload=pairs).mono("mean")
    assert found.dtype == np.float32
    assert found.tolist() == [0.25, -1.0]
    assert block(channels=2, payload=pairs).mono("first").tolist() == [0.5, -1.0]
    floats = np.array([0.5, -2.0], dtype="<f4").tobytes()
    assert block(encoding="pcm_f32le", payload=floats).mono("mean").tolist() == [0.5, -2.0]
    assert block(payload=b"").mono("mean").shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_what_is_no_sound(value):
    wrong = block(encoding="pcm_f32le", payload=np.array([0.0, value], dtype="<f4").tobytes())
    with pytest.raises(StageError) as caught:
        wrong.mono("mean")
    assert caught.value.reason is Reason.INVALID_SAMPLES


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stream_id": "../etc"}, "stream_id"),
        ({"stream_id": ""}, "stream_id"),
        ({"stream_id": 7}, "stream_id"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": True}, "sequence"),
        ({"event_time_us": 1.5}, "event_time_us"),
        ({"sample_rate_hz": 0}, "sample_rate_hz"),
        ({"channels": 33}, "channels"),
        ({"encoding": "opus"}, "encoding must be one of pcm_s16le, pcm_f32le"),
        ({"encoding": ["pcm_s16le"]}, "encoding"),
        ({"last": 1}, "last"),
        ({"payload": b"\x00"}, "no whole frames of 2 bytes"),
    ],
)
def test_a_field_out_of_range(changes, told):
    with pytest.raises(StageError, match=told) as caught:
        block(**changes)
    assert caught.value.reason is Reason.MALFORMED_BLOCK


def on_wire(header: bytes, payload: bytes = b"") -> bytes:
    return b"CLB1" + struct.pack("<I", len(header)) + header + payload


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "does not begin with"),
        (b"RIFF....WAVE", "does not begin with"),
        (b"CLB1\x00", "does not begin with"),
        (b"CLB1" + struct.pack("<I", 1 << 31) + b"{}", "cut off, or too long"),
        (on_wire(b"[" * 2_000), "no JSON"),
        (on_wire(b"\xff"), "no JSON"),
        (on_wire(b"[1]"), "no JSON object"),
        (on_wire(b"{}"), "missing"),
        (on_wire(b'{"payload": "x"}'), "unknown fields .payload"),
        (bytes(MAX_BLOCK_BYTES + 1), "over 1000000"),
    ],
)
def test_what_is_no_block(content, told):
    with pytest.raises(StageError, match=told) as caught:
        decode_block(content)
    assert caught.value.reason is Reason.MALFORMED_BLOCK


@given(st.binary(max_size=200), blocks, st.integers(0, 300))
def test_damage_is_told_and_never_anything_else(noise, one, at):
    content = encode_block(one)
    for damaged in (noise, content[:at], content[:at] + noise + content[at:]):
        try:
            decode_block(damaged)
        except StageError as error:
            assert error.reason is Reason.MALFORMED_BLOCK


def test_a_block_that_is_too_long():
    with pytest.raises(StageError, match="cut shorter blocks") as caught:
        block(payload=bytes(MAX_PAYLOAD_BYTES + 1))
    assert caught.value.reason is Reason.MALFORMED_BLOCK


def test_what_was_read_can_be_written_again():
    """A writer may leave out spaces and defaults; the block is held as we write it."""
    header = json.dumps(
        {"stream_id": "s" * 128, "session": 2**62, "sequence": 2**62, "event_time_us": 2**57,
         "sample_rate_hz": 384_000, "channels": 1},
        separators=(",", ":"),
    ).encode()  # fmt: skip
    room = MAX_BLOCK_BYTES - 8 - len(header)
    for size in (room, room - 2 * 500, MAX_PAYLOAD_BYTES - MAX_PAYLOAD_BYTES % 2):
        try:
            one = decode_block(on_wire(header, bytes(size // 2 * 2)))
        except StageError as error:
            assert error.reason is Reason.MALFORMED_BLOCK
        else:
            assert decode_block(encode_block(one)) == one


def test_the_largest_block_is_within_the_bound():
    largest = block(stream_id="s" * 128, session=2**62, sequence=2**62, event_time_us=2**57,
                    sample_rate_hz=384_000, last=True,
                    payload=bytes(MAX_PAYLOAD_BYTES))  # fmt: skip
    assert len(encode_block(largest)) <= MAX_BLOCK_BYTES


def test_the_latest_time_is_a_timestamp_with_room_behind():
    latest = block(event_time_us=2**57, sample_rate_hz=1_000, payload=bytes(MAX_PAYLOAD_BYTES))
    assert 6_500 < utc(latest.end_time_us).year < 7_000
    with pytest.raises(StageError, match="event_time_us") as caught:
        block(event_time_us=2**57 + 1)
    assert caught.value.reason is Reason.MALFORMED_BLOCK


def test_what_is_told_can_be_written():
    """Half of a surrogate pair is JSON, and no UTF-8."""
    with pytest.raises(StageError, match="unknown fields") as caught:
        decode_block(on_wire(b'{"\\ud800": 1}'))
    caught.value.message.encode()
