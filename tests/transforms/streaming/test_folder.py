"""Folders of streams: what is read, in what order, once, and what fails."""

from __future__ import annotations

import itertools
import os
import random
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.audio_files import sine, write_soundfile
from transforms.errors import InputError, Reason
from transforms.streaming import folder as folder_module
from transforms.streaming import folder_stream
from transforms.streaming.arrivals import Arrived, SourceFailure
from transforms.streaming.blocks import MAX_BLOCK_BYTES, Block, decode_block, encode_block
from transforms.streaming.folder import FolderSource, FolderSpec, check_folder, strays, stream_ids

RATE = 8_000


class Clock:
    """Looks at the folder at each poll: no look is ever too early."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def later(self, seconds: float = 1.0) -> None:
        self.now_s += seconds


def block(stream_id="radio", sequence=0, session=0, **changes) -> Block:
    fields = {"event_time_us": 1_000_000 * sequence, "sample_rate_hz": RATE, "channels": 1,
              "payload": bytes(200)}  # fmt: skip
    return Block(stream_id=stream_id, session=session, sequence=sequence, **{**fields, **changes})


def put(folder: Path, one: Block, content: bytes | None = None) -> Path:
    """Write a block as a recorder must: under another name first."""
    path = folder / one.file_name
    path.parent.mkdir(exist_ok=True)
    hidden = path.with_name("." + path.name)
    hidden.write_bytes(encode_block(one) if content is None else content)
    hidden.rename(path)
    return path


def segment(folder: Path, number: int, seconds: float = 1.0, stream_id: str = "radio") -> Path:
    (folder / stream_id).mkdir(exist_ok=True)
    path = folder / stream_id / f"rec{number:06d}.wav"
    write_soundfile(path, sine(seconds, RATE, 1), RATE, "WAV", "PCM_16")
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def everything(source: FolderSource) -> list[Arrived | SourceFailure]:
    """All until the end."""
    items, ended = [], False
    while not ended:
        polled = source.poll()
        items += polled.items
        ended = polled.ended
    assert source.poll().ended
    source.close()
    return items


def once(folder: Path, **options) -> list[Arrived | SourceFailure]:
    return everything(FolderSpec(str(folder), follow=False, **options).open())


def keys(items) -> list[tuple[str, int, int]]:
    blocks = [decode_block(item.content) for item in items if isinstance(item, Arrived)]
    return [(one.stream_id, one.session, one.sequence) for one in blocks]


def failures(items) -> dict[str, Reason]:
    return {
        os.path.basename(item.source): item.reason
        for item in items
        if isinstance(item, SourceFailure)
    }


def test_blocks_come_by_session_and_sequence_whatever_the_order_of_writing(tmp_path):
    wanted = [("radio", session, n) for session in (0, 2, 10) for n in (0, 1, 9, 10, 1_000)]
    shuffled = random.Random(0).sample(wanted, len(wanted))
    for _, session, n in shuffled:
        put(tmp_path, block(sequence=n, session=session))
    assert keys(once(tmp_path)) == wanted


def test_streams_take_turns(tmp_path):
    for n in range(3):
        put(tmp_path, block("a", n))
    for n in range(2):
        put(tmp_path, block("b", n))
    items = once(tmp_path)
    assert [(name, n) for name, _, n in keys(items)] == [
        ("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)
    ]  # fmt: skip
    assert all(item.event_time_us == decode_block(item.content).event_time_us for item in items)
    assert all(item.stream_id == decode_block(item.content).stream_id for item in items)


def test_an_empty_folder_ends(tmp_path):
    assert once(tmp_path) == []
    (tmp_path / "radio").mkdir()
    assert once(tmp_path) == []


def test_what_is_no_block_fails_and_the_others_go_on(tmp_path):
    put(tmp_path, block(sequence=0))
    put(tmp_path, block(sequence=1), b"CLB1 but nothing else")
    put(tmp_path, block(sequence=2), b"")
    put(tmp_path, block(sequence=3), encode_block(block(sequence=4)))
    put(tmp_path, block(sequence=4), encode_block(block("other", 4)))
    put(tmp_path, block(sequence=5), encode_block(block(sequence=5)) + bytes(MAX_BLOCK_BYTES))
    put(tmp_path, block(sequence=7))
    (tmp_path / "radio" / "7.block").write_bytes(encode_block(block(sequence=7)))
    (tmp_path / "radio" / "live000001.wav").write_bytes(b"")
    (tmp_path / "radio" / "0-0000000006.block").mkdir()
    items = once(tmp_path)
    assert keys(items) == [("radio", 0, 0), ("radio", 0, 7)]
    names = [f"0-000000000{n}.block" for n in range(1, 6)] + ["7.block", "live000001.wav"]
    found = failures(items)
    assert found.pop("0-0000000006.block") is Reason.UNREADABLE
    assert found == dict.fromkeys(names, Reason.MALFORMED_BLOCK)
    assert {item.stream_id for item in items if isinstance(item, SourceFailure)} == {"radio"}
    assert "radio/0-0000000004.block" in next(
        item.message for item in items if getattr(item, "source", "").endswith("03.block")
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_must_not_be_read(tmp_path):
    put(tmp_path, block(sequence=0)).chmod(0)
    assert failures(once(tmp_path)) == {"0-0000000000.block": Reason.PERMISSION_DENIED}


def test_a_pipe_in_place_of_a_block_is_not_waited_for(tmp_path):
    put(tmp_path, block(sequence=0))
    os.mkfifo(tmp_path / "radio" / "0-0000000001.block")
    assert failures(once(tmp_path)) == {"0-0000000001.block": Reason.UNREADABLE}


def test_a_file_that_goes_before_it_is_read(tmp_path):
    os.symlink(tmp_path / "nowhere", tmp_path / "loop")
    (tmp_path / "radio").mkdir()
    os.symlink(tmp_path / "nowhere", tmp_path / "radio" / "0-0000000001.block")
    found = failures(once(tmp_path))
    assert found == {"0-0000000001.block": Reason.NOT_FOUND, "loop": Reason.MALFORMED_BLOCK}


def test_what_lies_beside_streams_or_has_no_stream_id(tmp_path):
    put(tmp_path, block(sequence=0))
    (tmp_path / "0-0000000000.block").write_bytes(b"")
    (tmp_path / "has space").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "list.m3u8").write_bytes(b"")
    items = once(tmp_path)
    wanted = {"0-0000000000.block": Reason.MALFORMED_BLOCK, "has space": Reason.MALFORMED_BLOCK}
    assert failures(items) == wanted
    assert len(items) == 3
    assert stream_ids(str(tmp_path)) == ["has space", "radio"]
    assert failures(strays(str(tmp_path))) == {"0-0000000000.block": Reason.MALFORMED_BLOCK}
    assert failures(once(tmp_path, only="has space")) == {"has space": Reason.MALFORMED_BLOCK}
    assert keys(once(tmp_path, only="radio")) == [("radio", 0, 0)]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="is no folder"):
        check_folder(str(tmp_path / "none"))
    items = once(tmp_path / "none")
    assert [item.reason for item in items] == [Reason.NOT_FOUND]


class Follower:
    """A source that is followed, under a clock of its own."""

    def __init__(self, folder: Path, **options) -> None:
        self.clock = Clock()
        self.source = FolderSource(FolderSpec(str(folder), **options), self.clock)
        self.watermark_us: int | None = None

    def look(self, after_s: float = 1.0) -> list[Arrived | SourceFailure]:
        """All that is there now, as often as it takes."""
        self.clock.later(after_s)
        items = []
        while True:
            polled = self.source.poll()
            assert not polled.ended
            self.watermark_us = polled.watermark_us
            if not polled.items:
                return items
            items += polled.items


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), unique=True), st.randoms())
@settings(max_examples=25, deadline=None)
def test_however_they_come_each_is_read_once_and_late_ones_too(tmp_path_factory, numbers, chance):
    folder = tmp_path_factory.mktemp("streams")
    follower, written, read = Follower(folder), [], []
    for session, n in numbers:
        put(folder, block(sequence=n, session=session))
        written.append(("radio", session, n))
        if chance.random() < 0.4:
            new = keys(follower.look())
            assert new == sorted(set(written) - set(read))
            read += new
    assert sorted(read + keys(follower.look())) == sorted(written)
    assert follower.look() == []


def test_memory_is_ranges_not_names(tmp_path):
    follower = Follower(tmp_path)
    for n in range(300):
        put(tmp_path, block(sequence=n))
        if n % 100 == 99:
            assert len(follower.look()) == 100
    taken = follower.source._streams["radio"]._taken._sessions
    assert {session: len(ranges) for session, ranges in taken.items()} == {0: 1}
    assert not follower.source._streams["radio"]._foreign._names
    assert not follower.source._pending


def test_more_than_are_held_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_stream, "MAX_NAMES", 7)
    for n in range(40):
        put(tmp_path, block(sequence=n))
    assert [n for _, _, n in keys(once(tmp_path))] == list(range(40))
    (tmp_path / "two").mkdir()
    for n in range(8):
        segment(tmp_path / "two", n, 0.2)
    items = once(tmp_path / "two")
    assert [n for _, _, n in keys(items)] == list(range(8))


def test_a_poll_gives_a_bounded_part(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_POLL_BYTES", 1_000)
    for n in range(10):
        put(tmp_path, block(sequence=n, payload=bytes(1_000)))
    source = FolderSpec(str(tmp_path), follow=False).open()
    sizes = []
    while not (polled := source.poll()).ended:
        sizes.append(sum(len(item.content) for item in polled.items))
    assert len(sizes) == 10
    assert max(sizes) < 2_000


def test_too_many_foreign_files_are_summed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_stream, "MAX_FOREIGN", 3)
    put(tmp_path, block(sequence=0))
    for n in range(9):
        (tmp_path / "radio" / f"x{n}.wav").write_bytes(b"")
    items = once(tmp_path)
    assert keys(items) == [("radio", 0, 0)]
    assert len(items) == 5
    assert sum("over 3" in getattr(item, "message", "") for item in items) == 1


def test_segments_become_blocks(tmp_path):
    for n in (3, 4):
        segment(tmp_path, n, 2.0)
    items = once(tmp_path)
    assert [n for _, _, n in keys(items)] == [0, 1, 2, 3]
    sound = [np.frombuffer(decode_block(item.content).payload, "<f4") for item in items]
    tone = sine(2.0, RATE, 1)[:, 0]
    np.testing.assert_allclose(np.concatenate(sound), np.tile(tone, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame")]
)
def test_what_ffmpegs_own_segmenter_writes(tmp_path, ending, codec):
    """Each segment begins where the one before it ended; no sound is lost between them."""
    (tmp_path / "radio").mkdir()
    rate, sound = 44_100, sine(5.0, 44_100, 1)
    names = str(tmp_path / "radio" / f"out%03d.{ending}")
    with av.open(names, "w", format="segment", options={"segment_time": "1"}) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.open()
        form = stream.codec_context.format
        fitted = av.AudioResampler(form, "mono", rate, frame_size=stream.frame_size or 1_024)
        frame = av.AudioFrame.from_ndarray(sound.reshape(1, -1), "flt", "mono")
        frame.sample_rate = rate
        for part in [*fitted.resample(frame), *fitted.resample(None), None]:
            file.mux([packet for packet in stream.encode(part) if packet.size])
    files = len(os.listdir(tmp_path / "radio"))
    assert files >= 4
    items = once(tmp_path)
    if ending == "mp3":  # the rest of the last frame alone is no file
        assert failures(items[-1:]) == {f"out{files - 1:03d}.mp3": Reason.CORRUPT}
        items = items[:-1]
    blocks = [decode_block(item.content) for item in items]
    assert [one.sequence for one in blocks] == list(range(len(blocks)))
    heard = np.concatenate([np.frombuffer(one.payload, "<f4") for one in blocks])
    assert abs(len(heard) - len(sound)) <= (0 if ending != "mp3" else files * 2 * 1_152)
    if ending != "mp3":
        np.testing.assert_allclose(heard, sound[:, 0], rtol=0, atol=1e-4)
    for before, behind in itertools.pairwise(blocks):
        assert abs(behind.event_time_us - before.end_time_us) <= 1


def test_segments_that_fail_or_hold_no_number(tmp_path):
    segment(tmp_path, 0)
    (tmp_path / "radio" / "rec000001.wav").write_bytes(b"nothing of the kind" * 9)
    segment(tmp_path, 2)
    (tmp_path / "radio" / "other.wav").write_bytes(b"")
    items = once(tmp_path)
    assert failures(items) == {
        "rec000001.wav": Reason.NOT_AUDIO,
        "other.wav": Reason.MALFORMED_BLOCK,
    }
    assert [n for _, _, n in keys(items)] == [0, 2]
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "talk.wav").write_bytes(b"")
    assert failures(once(tmp_path, only="talk")) == {"talk.wav": Reason.MALFORMED_BLOCK}


def test_the_newest_segment_is_read_when_there_is_a_newer_one(tmp_path):
    follower = Follower(tmp_path, settle_seconds=100)
    segment(tmp_path, 0)
    assert follower.look() == []
    segment(tmp_path, 1)
    assert keys(follower.look()) == [("radio", 0, 0)]
    segment(tmp_path, 2)
    assert keys(follower.look()) == [("radio", 0, 1)]
    assert follower.look() == []


def test_the_newest_segment_is_read_when_it_no_longer_grows(tmp_path):
    follower = Follower(tmp_path, settle_seconds=10)
    path = segment(tmp_path, 0)
    whole = path.read_bytes()
    for part in (0, 100, 5_000):
        path.write_bytes(whole[:part])
        assert follower.look(6) == []
    path.write_bytes(whole)
    assert follower.look(6) == []
    assert follower.look(6) == []
    (item,) = follower.look(6)
    assert decode_block(item.content).frames == RATE
    assert follower.look(20) == []


def test_an_empty_newest_segment_is_not_there_yet(tmp_path):
    follower = Follower(tmp_path, settle_seconds=2)
    segment(tmp_path, 0)
    path = segment(tmp_path, 1)
    path.write_bytes(b"")
    assert keys(follower.look()) == [("radio", 0, 0)]
    assert follower.look(50) == []
    segment(tmp_path, 1)
    segment(tmp_path, 2)
    assert keys(follower.look()) == [("radio", 0, 1)]


def test_the_watermark_of_two_streams(tmp_path):
    follower = Follower(tmp_path, idle_seconds=10)
    follower.look()
    assert follower.watermark_us is None
    put(tmp_path, block("a", 5))
    put(tmp_path, block("b", 3))
    follower.look()
    assert follower.watermark_us == 3_000_000
    put(tmp_path, block("b", 4))
    put(tmp_path, block("a", 6))
    follower.look()
    assert follower.watermark_us == 4_000_000
    put(tmp_path, block("a", 20))
    follower.look(9)
    assert follower.watermark_us == 4_000_000
    follower.look(1)  # b is idle
    assert follower.watermark_us == 20_000_000
    follower.look(11)  # and a, for two seconds
    assert follower.watermark_us == 22_000_000


def test_the_watermark_waits_for_what_is_there_and_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MAX_POLL_BYTES", 1)
    for n in range(3):
        put(tmp_path, block("a", 100 + n))
        put(tmp_path, block("b", n))
    follower = Follower(tmp_path)
    polls = [follower.source.poll() for _ in range(6)]
    assert [(polled.items[0].stream_id, polled.watermark_us) for polled in polls] == [
        ("a", None), ("b", 0), ("a", 0), ("b", 1_000_000), ("a", 1_000_000), ("b", 2_000_000)
    ]  # fmt: skip


def test_the_watermark_waits_for_a_segment_that_is_written(tmp_path):
    follower = Follower(tmp_path, idle_seconds=5, settle_seconds=5)
    segment(tmp_path, 0, 2.0)
    path = segment(tmp_path, 1)
    assert len(follower.look()) == 2
    before_us = follower.watermark_us
    for _ in range(10):
        path.write_bytes(path.read_bytes() + bytes(100))
        follower.look(4)
        assert follower.watermark_us == before_us
    follower.look(20)  # it is complete, and read
    assert follower.watermark_us == before_us + 1_000_000
