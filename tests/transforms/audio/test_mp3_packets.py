from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import noise
from tests.transforms.audio.mp3_files import behind_id3, untagged, write_mp3
from transforms.audio import mp3_packets
from transforms.audio.mp3_packets import Span, index_packets, info_packet, packet_kind

MPEG1_STEREO = bytes.fromhex("fffb9064")  # 128 kbit/s, 44.1 kHz
MPEG2_MONO = bytes.fromhex("fff310c4")  # 8 kbit/s, 22.05 kHz


def indexed(content, rate=44_100):
    return index_packets(io.BytesIO(content), rate)


@pytest.mark.parametrize(
    ("header", "rate", "frames", "side", "length"),
    [
        (MPEG1_STEREO, 44_100, 1_152, 32, 417),
        (bytes.fromhex("fffb92c4"), 44_100, 1_152, 17, 418),
        (bytes.fromhex("fffbe464"), 48_000, 1_152, 32, 960),
        (MPEG2_MONO, 22_050, 576, 9, 26),
        (bytes.fromhex("ffe318c4"), 8_000, 576, 9, 72),
    ],
)
def test_packet_kind(header, rate, frames, side, length):
    kind = packet_kind(header, rate)
    assert (kind.frames, kind.side_bytes) == (frames, side)
    assert kind.lengths[header[2]] == length


@pytest.mark.parametrize("header", ["fffd9064", "ffeb9064", "fff19064", "00000000", "fffb90", ""])
def test_no_packet_of_layer_three(header):
    assert packet_kind(bytes.fromhex(header), 44_100) is None


@pytest.mark.parametrize("byte", [0x04, 0xF0, 0x94, 0x9C])  # free format, invalid, other rates
def test_packets_of_another_kind_have_no_length(byte):
    assert packet_kind(MPEG1_STEREO, 44_100).lengths[byte] == 0


def test_packets_follow_each_other(tmp_path):
    path = write_mp3(tmp_path / "a", noise(3.0), 44_100, "VARIABLE", 0.5)
    content = path.read_bytes()
    packets = indexed(content)
    assert packets.tagged
    assert packets.offsets[-1] == len(content)
    assert packets.frames == 3 * 44_100  # as encoded: the decoder takes delay and padding away
    for at in packets.offsets[:-1]:
        assert content[at] == 0xFF
        assert content[at + 1] & 0xFE == 0xFA


@pytest.mark.parametrize("size", [1_500, 2_000, 4_096])
def test_reading_in_pieces(tmp_path, monkeypatch, size):
    path = write_mp3(tmp_path / "a", noise(3.0), 44_100, "VARIABLE", 0.5)
    whole = indexed(path.read_bytes())
    monkeypatch.setattr(mp3_packets, "_PIECE_BYTES", size)
    np.testing.assert_array_equal(indexed(path.read_bytes()).offsets, whole.offsets)


def test_tags_before_and_behind(tmp_path):
    content = write_mp3(tmp_path / "a", noise(1.0), 44_100).read_bytes()
    moved = indexed(behind_id3(behind_id3(content, 300), 70_000) + b"TAG" + bytes(125))
    plain = indexed(content)
    np.testing.assert_array_equal(moved.offsets, plain.offsets + 310 + 70_010)
    assert moved.frames == plain.frames


def test_without_a_tag_nothing_is_dropped(tmp_path):
    content = write_mp3(tmp_path / "a", noise(1.0), 44_100).read_bytes()
    packets = indexed(untagged(content))
    assert not packets.tagged
    assert packets.frames == packets.count * 1_152
    assert packets.count == indexed(content).count


def test_a_cut_off_packet_does_not_count(tmp_path):
    content = untagged(write_mp3(tmp_path / "a", noise(1.0), 44_100).read_bytes())
    assert indexed(content[:-1]).count == indexed(content).count - 1


def test_a_tag_that_counts_otherwise(tmp_path):
    content = bytearray(write_mp3(tmp_path / "a", noise(1.0), 44_100).read_bytes())
    at = content.index(b"Info") + 11
    content[at] += 1
    assert indexed(bytes(content)) is None


def test_main_data_from_nowhere(tmp_path):
    """A packet that refers further back than the one before it does cannot be right."""
    path = write_mp3(tmp_path / "a", noise(3.0, 22_050, 1), 22_050, "CONSTANT", 0.99)
    content = bytearray(path.read_bytes())
    second = int(indexed(bytes(content), 22_050).offsets[1])
    assert second < 200  # bytes of main data: fewer than can be referred to
    content[second + 4] = 0xFF
    assert indexed(bytes(content), 22_050) is None


@pytest.mark.parametrize(("header", "rate"), [(MPEG1_STEREO, 44_100), (MPEG2_MONO, 22_050)])
def test_a_decoder_believes_the_info_packet(header, rate):
    kind = packet_kind(header, rate)
    silent = header + bytes(kind.lengths[header[2]] - 4)
    with sf.SoundFile(io.BytesIO(info_packet(kind, 30) + 30 * silent)) as sound:
        assert sound.frames == 30 * kind.frames - 529
        assert len(sound.read()) == sound.frames


def test_spans_begin_where_the_decoder_has_all_it_needs(tmp_path):
    path = write_mp3(tmp_path / "a", noise(5.0, 24_000), 24_000, "VARIABLE", 0.9)
    packets = indexed(path.read_bytes(), 24_000)
    assert packets.span(0, 1) == Span(0, 0, 2)
    for first in range(0, packets.frames, 997):
        begin, sounding, end = packets.span(first, packets.frames)
        assert begin % 8 == 0
        assert begin <= sounding <= (first + packets.dropped) // 576
        held = packets.offsets[sounding] - packets.offsets[begin] - 23 * (sounding - begin)
        assert begin == 0 or held >= 255
        assert end == packets.count
