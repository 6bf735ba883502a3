"""Sessions of a publisher, against a station that fails in every way."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
import soundfile as sf

from tests import radio
from tests.audio_files import lag_and_likeness, noise, sine, write_soundfile
from tests.radio import Radio, wait_for
from transforms.errors import Reason, StageError
from transforms.streaming import publisher as module
from transforms.streaming.blocks import Block
from transforms.streaming.live_source import Conversion
from transforms.streaming.publisher import Plan, Publisher

NOW_US = 1_700_000_000_000_000


class Memory:
    """A sink that keeps blocks, and when they came."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.came_s: list[float] = []

    def send(self, block: Block) -> None:
        self.blocks.append(block)
        self.came_s.append(time.monotonic())

    def close(self) -> None: ...

    def sessions(self) -> dict[int, list[Block]]:
        found = defaultdict(list)
        for block in self.blocks:
            found[block.session].append(block)
        return dict(found)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.05)


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    return write_soundfile(path, sine(2.0), 44_100, "MP3").read_bytes()


def plan(**changes) -> Plan:
    return Plan(**{"session": 100, "patience_s": 5.0, **changes})


def published(source: str, **changes) -> tuple[Memory, Publisher, list[str]]:
    sink, told = Memory(), []
    one = Publisher(source, ("s",), plan(**changes), sink, told.append)
    one.run()
    return sink, one, told


def seconds(blocks: list[Block]) -> float:
    return sum(block.frames / block.sample_rate_hz for block in blocks)


def assert_well_formed(blocks: list[Block]) -> None:
    """Of one session: numbered, contiguous in time."""
    assert [block.sequence for block in blocks] == list(range(len(blocks)))
    for block, following in itertools.pairwise(blocks):
        assert abs(block.end_time_us - following.event_time_us) <= 1


@pytest.mark.parametrize("block_seconds", [0.001, 0.0137, 0.25, 60.0])
def test_a_file_is_published_exactly(tmp_path, block_seconds):
    path = write_soundfile(tmp_path / "a.wav", noise(1.3, 11_025, 2), 11_025, "WAV", "PCM_16")
    sink, one, _ = published(str(path), block_seconds=block_seconds, origin_us=NOW_US)
    payload = b"".join(block.payload for block in sink.blocks)
    assert payload == sf.read(path, dtype="int16")[0].tobytes()
    assert_well_formed(sink.blocks)
    assert [block.last for block in sink.blocks[-2:]][-1:] == [True]
    assert sum(block.last for block in sink.blocks) == 1
    assert (sink.blocks[0].event_time_us, sink.blocks[0].session) == (NOW_US, 100)
    assert one.failure is None
    assert one.seconds == pytest.approx(1.3, abs=1e-3)


def test_copies(tmp_path):
    path = write_soundfile(tmp_path / "a.wav", noise(1), 44_100, "WAV", "PCM_16")
    sink = Memory()
    Publisher(str(path), ("a", "b", "c"), plan(), sink, print).run()
    by_id = {name: [block for block in sink.blocks if block.stream_id == name] for name in "abc"}
    assert len(by_id["a"]) == 5
    payloads = {tuple(block.payload for block in blocks) for blocks in by_id.values()}
    assert len(payloads) == 1
    assert all(blocks[-1].last for blocks in by_id.values())


@pytest.mark.parametrize("asked", ["0.3", "0.25", "1", "0.00001", "7"])
def test_so_many_seconds(tmp_path, asked):
    path = write_soundfile(tmp_path / "a.wav", noise(2), 44_100, "WAV", "PCM_16")
    sink, one, _ = published(str(path), seconds=Fraction(asked))
    frames = min(int(Fraction(asked) * 44_100), 88_200)
    assert sum(block.frames for block in sink.blocks) == frames
    assert one.failure is None
    if frames:
        assert sink.blocks[-1].last


def test_real_time(tmp_path):
    path = write_soundfile(tmp_path / "a.wav", noise(1), 44_100, "WAV", "PCM_16")
    began = time.monotonic()
    sink, one, _ = published(str(path), real_time=True, block_seconds=0.1)
    for number, came_s in enumerate(sink.came_s[:10]):
        assert 0.1 * (number + 1) - 0.001 <= came_s - began < 0.1 * (number + 1) + 0.5
    assert -0.01 < one.delay_s < 0.6


def test_an_endless_station(mp3):
    with Radio({"/live": radio.endless(mp3)}) as station:
        before_us = time.time_ns() // 1_000
        sink, one, told = published(station.url("/live"), seconds=Fraction(5))
        after_us = time.time_ns() // 1_000
    assert (one.failure, told, list(sink.sessions())) == (None, [], [100])
    assert_well_formed(sink.blocks)
    assert seconds(sink.blocks) == pytest.approx(5)
    assert sink.blocks[-1].last
    assert before_us <= sink.blocks[0].event_time_us <= after_us
    samples = np.frombuffer(b"".join(block.payload for block in sink.blocks), "<i2")
    samples = (samples.reshape(-1, 2) / 32_768).astype(np.float32)
    assert lag_and_likeness(samples, sine(2.0), 200)[1] > 0.99


def test_a_station_that_breaks_off_and_comes_back(mp3):
    route = radio.in_turn(
        radio.unfinished(mp3),
        radio.status(404),
        radio.raw(b"garbage\r\n\r\n"),
        radio.unfinished(mp3[:3_000]),
        radio.whole(mp3),
    )
    with Radio({"/live": route}) as station:
        sink, one, told = published(station.url("/live"))
    assert one.failure is None
    sessions = sink.sessions()
    assert list(sessions) == [100, 101, 102]
    for blocks in sessions.values():
        assert_well_formed(blocks)
    assert [block.last for block in sink.blocks].index(True) == len(sink.blocks) - 1
    assert seconds(sessions[100]) == pytest.approx(2.0, abs=0.1)
    assert seconds(sessions[102]) == pytest.approx(2.0, abs=0.1)
    times = [block.event_time_us for block in sink.blocks]
    assert times == sorted(times)
    assert len(told) == 4
    assert "the connection broke off; again in 0.05 s (1 of 10)" in told[0]
    assert "the server answers 404" in told[1]
    assert "(3 of 10)" in told[2]
    assert "(1 of 10)" in told[3]  # sound came in between


def test_a_station_that_stays_away(mp3):
    route = radio.in_turn(radio.unfinished(mp3), radio.status(404))
    with Radio({"/live": route}) as station:
        sink, one, told = published(station.url("/live"), retries=3)
        assert len(station.requests) == 4
    assert isinstance(one.failure, StageError)
    assert one.failure.reason is Reason.NOT_FOUND
    assert len(told) == 3
    assert list(sink.sessions()) == [100]
    assert_well_formed(sink.blocks)
    assert (sink.blocks[-1].last, sink.blocks[-1].payload) == (True, b"")


def test_the_waits_grow(monkeypatch, mp3):
    waits = []
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 30.0)
    monkeypatch.setattr(threading.Event, "wait", lambda _, timeout=None: waits.append(timeout))
    one = Publisher("http://x/", ("s",), plan(), Memory(), lambda _: None)
    for _ in range(7):
        one._wait(StageError(Reason.UNREADABLE, "x"))
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (radio.status(404), Reason.NOT_FOUND),
        (radio.whole(b"#EXTM3U\nfile:///etc/passwd\n"), Reason.NOT_AUDIO),
        (radio.whole(b"<html>" * 999), Reason.NOT_AUDIO),
        (radio.whole(b""), Reason.EMPTY_FILE),
        (radio.stalled(b""), Reason.TIMEOUT),
    ],
)
def test_what_never_gave_sound_is_not_tried_again(route, reason):
    with Radio({"/live": route}) as station:
        sink, one, told = published(station.url("/live"), patience_s=0.5)
        assert len(station.requests) == 1
    assert isinstance(one.failure, StageError)
    assert one.failure.reason is reason
    assert (sink.blocks, told) == ([], [])


def test_a_stall_in_mid_stream_begins_a_new_session(mp3):
    route = radio.in_turn(radio.stalled(mp3), radio.whole(mp3))
    with Radio({"/live": route}) as station:
        sink, one, told = published(station.url("/live"), patience_s=0.3)
    assert one.failure is None
    assert list(sink.sessions()) == [100, 101]
    assert "nothing came for 0.3 s" in told[0]


@pytest.mark.parametrize("route", ["endless", "stalled", "retrying"])
def test_stop_ends_the_stream(mp3, route, monkeypatch):
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 60.0 if route == "retrying" else 0.05)
    routes = {
        "endless": radio.endless(mp3, 20_000),
        "stalled": radio.stalled(mp3),
        "retrying": radio.unfinished(mp3),
    }
    sink, told = Memory(), []
    with Radio({"/live": routes[route]}) as station:
        one = Publisher(station.url("/live"), ("s",), plan(patience_s=60.0, retries=50), sink,
                        told.append)  # fmt: skip
        thread = threading.Thread(target=one.run)
        thread.start()
        enough = {"endless": 3, "stalled": 6, "retrying": 10}[route]
        wait_for(lambda: len(sink.blocks) > enough)
        time.sleep(0.1)  # for what is less than a block
        began = time.monotonic()
        one.stop()
        thread.join(10)
        assert time.monotonic() - began < 5
    assert one.failure is None
    assert [block.last for block in sink.blocks].index(True) == len(sink.blocks) - 1
    if route == "stalled":  # all that came was published
        assert seconds(sink.blocks) == pytest.approx(2.0, abs=0.1)


def test_a_bug_is_kept(tmp_path):
    class Broken(Memory):
        def send(self, block: Block) -> None:
            raise ZeroDivisionError

    path = write_soundfile(tmp_path / "a.wav", noise(1), 44_100, "WAV", "PCM_16")
    one = Publisher(str(path), ("s",), plan(), Broken(), print)
    one.run()
    assert isinstance(one.failure, ZeroDivisionError)


def test_more_channels_than_a_block_holds(tmp_path):
    path = write_soundfile(tmp_path / "a.wav", noise(0.2, 8_000, 40), 8_000, "WAV", "PCM_16")
    _, one, _ = published(str(path))
    assert "channels must be from 1 to 32, not 40" in str(one.failure)


def test_conversion_reaches_the_blocks(tmp_path):
    path = write_soundfile(tmp_path / "a.wav", noise(1), 44_100, "WAV", "PCM_16")
    conversion = Conversion(encoding="pcm_f32le", sample_rate_hz=16_000, channels=1)
    sink, _, _ = published(str(path), conversion=conversion)
    kinds = {(block.encoding, block.sample_rate_hz, block.channels) for block in sink.blocks}
    assert kinds == {("pcm_f32le", 16_000, 1)}
    assert {block.frames for block in sink.blocks[:4]} == {4_000}
