"""A live source in this process: its sound comes while it sounds, and its end is an end."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.audio_files import sine, write_pyav, write_soundfile
from tests.radio import Radio, endless, status
from transforms.errors import Reason
from transforms.streaming import published
from transforms.streaming.arrivals import Arrived, SourceFailure
from transforms.streaming.blocks import decode_block
from transforms.streaming.live_root import LivePolls, Stop
from transforms.streaming.published import PublishedSource, PublishedSpec
from transforms.streaming.publisher import Plan, Publisher

RATE = 8_000
PLAN = Plan(session=7, origin_us=1_000_000_000, retries=0, patience_s=5.0)


@contextlib.contextmanager
def piped():
    """The writing end of a pipe that is this process's standard input; no fixture, as pytest
    has its own standard input in tests."""
    reading, writing = os.pipe()
    before = os.dup(0)
    os.dup2(reading, 0)
    os.close(reading)
    try:
        with open(writing, "wb", buffering=0) as file:
            yield file
    finally:
        os.dup2(before, 0)
        os.close(before)


def some(source: PublishedSource, enough) -> list[Arrived | SourceFailure]:
    """Poll until it is enough, or the source has ended; a minute is for ever."""
    items, until_s = [], time.monotonic() + 60
    while not enough(items):
        assert time.monotonic() < until_s
        polled = source.poll()
        items += polled.items
        if polled.ended:
            break
        time.sleep(0.01)
    return items


def everything(spec: PublishedSpec) -> list[Arrived | SourceFailure]:
    source = spec.open()
    items = some(source, lambda _: False)
    source.close()
    return items


def sound_of(items) -> np.ndarray:
    return np.concatenate(
        [np.frombuffer(decode_block(item.content).payload, "<i2") / 32_768 for item in items]
    )


def wav(folder: Path, seconds: float = 3.0) -> Path:
    return write_soundfile(folder / "one.wav", sine(seconds, RATE, 1), RATE, "WAV", "PCM_16")


def test_a_file(tmp_path):
    items = everything(PublishedSpec(str(wav(tmp_path)), "radio", PLAN))
    np.testing.assert_allclose(sound_of(items), sine(3.0, RATE, 1)[:, 0], rtol=0, atol=1e-4)
    blocks = [decode_block(item.content) for item in items]
    assert [(one.stream_id, one.session, one.sequence) for one in blocks] == [
        ("radio", 7, n) for n in range(len(blocks))
    ]
    assert [item.event_time_us for item in items] == [one.event_time_us for one in blocks]
    assert blocks[-1].last
    assert blocks[0].event_time_us == 1_000_000_000


def test_blocks_come_while_the_pipe_is_open(tmp_path):
    content = wav(tmp_path, 10.0).read_bytes()
    with piped() as stdin:
        source = PublishedSpec("-", "pipe", PLAN).open()
        stdin.write(content[: len(content) // 2])
        first = some(source, lambda items: len(items) >= 4)
        stdin.write(content[len(content) // 2 :])
        stdin.close()
        rest = some(source, lambda _: False)
        source.close()
    heard, played = sound_of(first + rest), sine(10.0, RATE, 1)[:, 0]
    np.testing.assert_allclose(heard, played, rtol=0, atol=1e-4)
    assert decode_block(rest[-1].content).last


def test_who_writes_faster_than_is_read_waits(tmp_path, monkeypatch):
    monkeypatch.setattr(published, "MAX_HELD", 3)
    content = wav(tmp_path, 60.0).read_bytes()
    with piped() as stdin:
        os.set_blocking(stdin.fileno(), False)
        source = PublishedSpec("-", "pipe", PLAN).open()
        taken, until_s = 0, time.monotonic() + 2
        while taken < len(content) and time.monotonic() < until_s:
            taken += stdin.write(content[taken : taken + 4_096]) or 0
            time.sleep(0.001)
        assert taken < len(content) / 2
        assert source._queue._queue.qsize() == 3
        source.close()
        assert not source._thread.is_alive()


def test_a_radio_until_nobody_listens(tmp_path):
    path = write_pyav(tmp_path / "one.mp3", sine(3.0, 44_100, 2), 44_100, "mp3", "libmp3lame")
    with Radio({"/live": endless(path.read_bytes())}) as radio:
        source = PublishedSpec(radio.url("/live"), "radio", PLAN).open()
        items = some(source, lambda items: len(items) >= 20)
        source.close()
        assert not source._thread.is_alive()
    assert {decode_block(item.content).channels for item in items} == {2}


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, Reason.NOT_FOUND), (b"", Reason.EMPTY_FILE), (b"no sound" * 999, Reason.NOT_AUDIO)],
)
def test_what_is_no_source(tmp_path, content, reason):
    path = tmp_path / "one.wav"
    if content is not None:
        path.write_bytes(content)
    (failure,) = everything(PublishedSpec(str(path), "radio", PLAN))
    assert (failure.reason, failure.stream_id, failure.source) == (reason, "radio", str(path))


def test_a_failure_keeps_the_password():
    with Radio({"/live": status(403)}) as radio:
        url = radio.url("/live").replace("http://", "http://me:secret@")
        (failure,) = everything(PublishedSpec(url, "radio", PLAN))
    assert failure.reason is Reason.PERMISSION_DENIED
    assert "secret" not in repr(failure)


def test_what_is_no_failure_of_the_source_is_raised(tmp_path, monkeypatch):
    monkeypatch.setattr(Publisher, "_attempt", lambda self: 1 / 0)  # a bug
    source = PublishedSpec(str(wav(tmp_path)), "radio", PLAN).open()
    with pytest.raises(ZeroDivisionError):
        some(source, lambda _: False)


def test_a_silent_source_lets_time_go_on(tmp_path):
    clock_s = [0.0]
    spec = PublishedSpec("-", "pipe", PLAN, idle_seconds=10)
    with piped() as stdin:
        source = PublishedSource(spec, lambda: clock_s[0])
        stdin.write(wav(tmp_path, 10.0).read_bytes()[:100_000])
        some(source, lambda items: len(items) >= 16)
        time.sleep(0.5)  # until it waits for the pipe
        latest_us = [item.event_time_us for item in source.poll().items]
        clock_s[0] = 10.0
        before_us = source.poll().watermark_us
        assert latest_us in ([], [*latest_us[:-1], before_us])
        clock_s[0] = 12.0
        assert source.poll().watermark_us == before_us + 2_000_000
        source.close()


def test_as_one_of_several_sources(tmp_path):
    spec = PublishedSpec(str(wav(tmp_path)), "radio", PLAN)
    polls = LivePolls([spec, replace(spec, stream_id="other")], Stop.new())
    streams, polled = [], polls.poll()
    while not polled.ended:
        streams += [item.stream_id for item in polled.items]
        polled = polls.poll()
    assert streams.count("radio") == streams.count("other") == 13
