"""A recorder's segments to blocks: their sound is the sound, their times are its times."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.audio_files import sine, write_soundfile
from transforms.audio.sandbox import Sandbox
from transforms.errors import Reason, StageError
from transforms.streaming.blocks import MAX_BLOCK_BYTES, encode_block
from transforms.streaming.recorded import Recording

RATE = 8_000
WRITTEN_S = 1_700_000_000


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as one:
        yield one


def samples_of(blocks) -> np.ndarray:
    return np.concatenate(
        [np.frombuffer(one.payload, "<f4").reshape(-1, one.channels) for one in blocks]
    )


def write(folder: Path, number: int, sound: np.ndarray, rate: int = RATE) -> Path:
    path = write_soundfile(folder / f"{number:03d}.wav", sound, rate, "WAV", "PCM_16")
    os.utime(path, (WRITTEN_S, WRITTEN_S))
    return path


def all_blocks(recording, folder, numbers):
    return [list(recording.blocks(folder / f"{number:03d}.wav", number)) for number in numbers]


def test_segments_are_one_stream(tmp_path, sandbox):
    sound = sine(6.3, RATE, 2)
    for number, (start, end) in enumerate([(0, 2.5), (2.5, 4.0), (4.0, 6.3)]):
        write(tmp_path, number, sound[round(start * RATE) : round(end * RATE)])
    parts = all_blocks(Recording("radio", sandbox), tmp_path, range(3))
    blocks = [one for part in parts for one in part]
    np.testing.assert_allclose(samples_of(blocks), sound, rtol=0, atol=1 / 32_000)
    assert [one.sequence for one in blocks] == list(range(len(blocks)))
    assert {(one.stream_id, one.session, one.last) for one in blocks} == {("radio", 0, False)}
    # The first sample of all was heard 2.5 seconds before the first segment was complete.
    heard_us = round((WRITTEN_S - 2.5) * 1e6)
    for one in blocks:
        assert one.event_time_us == heard_us
        assert one.frames <= RATE
        heard_us += one.frames * 125


def test_a_missing_segment_is_a_gap_as_long_as_the_one_before(tmp_path, sandbox):
    write(tmp_path, 7, sine(2.5, RATE, 1))
    write(tmp_path, 10, sine(1.0, RATE, 1))
    before, behind = all_blocks(Recording("radio", sandbox), tmp_path, [7, 10])
    assert [one.sequence for one in before] == [0, 1, 2]
    assert behind[0].sequence == 3 + 2 * 3
    assert behind[0].event_time_us == before[0].event_time_us + 7_500_000


def test_what_cannot_be_decoded_is_a_gap_as_well(tmp_path, sandbox):
    write(tmp_path, 0, sine(1.5, RATE, 1))
    (tmp_path / "001.wav").write_bytes(b"no sound at all" * 99)
    write(tmp_path, 2, sine(1.0, RATE, 1))
    recording = Recording("radio", sandbox)
    (before,) = all_blocks(recording, tmp_path, [0])
    with pytest.raises(StageError) as caught:
        all_blocks(recording, tmp_path, [1])
    assert caught.value.reason is Reason.NOT_AUDIO
    (behind,) = all_blocks(recording, tmp_path, [2])
    assert [one.sequence for one in before + behind] == [0, 1, 4]
    assert behind[0].event_time_us == before[0].event_time_us + 3_000_000


def test_if_the_first_cannot_be_decoded_the_next_is_the_first(tmp_path, sandbox):
    (tmp_path / "000.wav").write_bytes(b"")
    write(tmp_path, 1, sine(1.0, RATE, 1))
    recording = Recording("radio", sandbox)
    with pytest.raises(StageError) as caught:
        all_blocks(recording, tmp_path, [0])
    assert caught.value.reason is Reason.EMPTY_FILE
    ((only,),) = all_blocks(recording, tmp_path, [1])
    assert (only.sequence, only.event_time_us) == (0, (WRITTEN_S - 1) * 1_000_000)


def test_a_late_segment_has_lost_its_place(tmp_path, sandbox):
    for number in (1, 2, 3):
        write(tmp_path, number, sine(1.0, RATE, 1))
    recording = Recording("radio", sandbox)
    all_blocks(recording, tmp_path, [1, 3])
    with pytest.raises(StageError) as caught:
        all_blocks(recording, tmp_path, [2])
    assert caught.value.reason is Reason.LATE_BLOCK


def test_rates_and_channels_may_change_from_one_to_the_next(tmp_path, sandbox):
    write(tmp_path, 0, sine(1.0, 8_000, 1))
    write(tmp_path, 1, sine(1.0, 44_100, 8), 44_100)
    write(tmp_path, 2, sine(1.0, 11_025, 2), 11_025)
    blocks = all_blocks(Recording("radio", sandbox), tmp_path, range(3))
    assert [{(one.sample_rate_hz, one.channels) for one in part} for part in blocks] == [
        {(8_000, 1)}, {(44_100, 8)}, {(11_025, 2)}
    ]  # fmt: skip
    starts = [part[0].event_time_us for part in blocks]
    assert np.diff(starts).tolist() == [1_000_000, 1_000_000]
    assert all(len(encode_block(one)) <= MAX_BLOCK_BYTES for part in blocks for one in part)


def test_silence_and_too_many_channels(tmp_path, sandbox):
    write(tmp_path, 0, np.zeros((RATE, 2), np.float32))
    write(tmp_path, 1, np.zeros((RATE, 40), np.float32))
    recording = Recording("radio", sandbox)
    (silent,) = all_blocks(recording, tmp_path, [0])
    assert not samples_of(silent).any()
    with pytest.raises(StageError, match="channels"):
        all_blocks(recording, tmp_path, [1])
