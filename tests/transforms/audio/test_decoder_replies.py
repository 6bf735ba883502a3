from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transforms.audio.decoder_replies import GarbledError, Reply, check_fits, parsed

STATE = {
    "info": {
        "container": "wav", "codec": "pcm_s16", "decoder": "soundfile", "sample_rate_hz": 44_100,
        "channels": 2,
    },
    "frames": 10,
    "busy_seconds": 0.5,
    "mono_seconds": 0.0,
    "warnings": ["truncated"],
}  # fmt: skip


def said(**changes) -> bytes:
    return json.dumps({**STATE, **changes}).encode()


def test_a_good_reply_is_understood() -> None:
    reply = parsed(said(shape=[5, 2], exact_frames=7))
    check_fits(reply, "next")
    assert reply.info is not None
    assert dataclasses.asdict(reply.info) == STATE["info"]
    assert (reply.frames, reply.warnings) == (10, ("truncated",))
    assert (reply.shape, reply.exact_frames, reply.ended, reply.error) == ((5, 2), 7, False, None)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff\xfe", b"[" * 60_000, b"[]", b"5", b"null", b'"info"', b"1" * 5_000,
        said(busy_seconds=-0.1), said(busy_seconds=1), said(mono_seconds=float("nan")),
        said(mono_seconds=None), said(frames=-1), said(frames=True), said(frames=1.0),
        said(frames=1 << 60),
        said(frames="1"), said(shape=[1]), said(shape=[0, 2]), said(shape=[-5, -5]),
        said(shape=[1 << 40, 2]), said(shape=[1, 65]), said(shape=[262_145, 1]),
        said(shape=[131_073, 2]), said(shape=[1.0, 2]), said(shape="22"), said(shape={"a": 1}),
        said(exact_frames=-1), said(exact_frames="x"), said(warnings=["<script>"]),
        said(warnings=7), said(warnings=[[]]), said(ended=1), said(info=None), said(info={}),
        said(info={**STATE["info"], "more": 1}), said(info={**STATE["info"], "channels": 0}),
        said(info={**STATE["info"], "sample_rate_hz": 0}),
        said(info={**STATE["info"], "sample_rate_hz": 44_100.0}),
        said(info={**STATE["info"], "container": None}),
        b'{"error": "no_reason", "message": ""}', b'{"error": "corrupt"}',
        b'{"error": "corrupt", "message": 5}', b'{"error": [], "message": ""}',
    ],
)  # fmt: skip
def test_garbage_is_recognised(text) -> None:
    with pytest.raises(GarbledError):
        parsed(text)


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from([*STATE, *STATE["info"], "shape", "error"]), inner)
        ),
    )
)
def test_any_json_is_a_reply_or_garbage(value) -> None:
    try:
        assert isinstance(parsed(json.dumps(value).encode()), Reply)
    except GarbledError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        ("next", said()),
        ("next", b"{}"),
        ("next", said(shape=[5, 2], ended=True)),
        ("next", said(shape=[5, 3])),
        ("open", b"{}"),
        ("open", said(shape=[5, 2])),
        ("count", said(shape=[5, 2])),
        ("count", said(shape=[5, 2], ended=True)),
    ],
)
def test_a_reply_must_fit_its_request(operation, text) -> None:
    reply = parsed(text)
    with pytest.raises(GarbledError):
        check_fits(reply, operation)
