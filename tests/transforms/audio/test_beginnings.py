from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from tests.audio_files import sine, write_pyav, write_soundfile
from tests.decoding import check_content, decode, reason_of
from transforms.audio.beginnings import find_beginnings, is_foreign, mpeg_chain
from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason

HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n"
MAC_BINARY = b"\0\x05a.mp3".ljust(65, b"\0") + b"MPG3".ljust(63, b"\0")
JUNK = {
    "http": HTTP,
    "mac": MAC_BINARY,
    "text": b"some words, line by line\n" * 80_000,
    "random": np.random.default_rng(0).bytes(300_000),
}
SOUND = [
    ("MP3", None), ("OGG", "VORBIS"), ("FLAC", "PCM_16"), ("WAV", "PCM_16"), ("AIFF", "PCM_16"),
    ("ipod", "aac"), ("ipod", "alac"), ("adts", "aac"), ("asf", "wmav2"), ("mp2", "mp2"),
]  # fmt: skip


def sound(folder, kind, codec) -> bytes:
    write = write_soundfile if kind.isupper() else write_pyav
    return write(folder / "sound", sine(2.0), 44_100, kind, codec).read_bytes()


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(("kind", "codec"), SOUND)
def test_sound_behind_junk(tmp_path, junk, kind, codec):
    path = tmp_path / "a"
    path.write_bytes(JUNK[junk] + sound(tmp_path, kind, codec))
    decoded, _, warnings = decode(path)
    assert abs(len(decoded) - 2 * 44_100) < 4_000
    assert set(warnings) <= {DecodeWarning.CORRUPT_FRAMES.value}
    check_content(decoded, sine(2.0), None)


@pytest.mark.parametrize("kind", ["MP3", "WAV", "OGG", "FLAC"])
def test_sound_in_an_archive_is_no_audio_file(tmp_path, kind):
    content = sound(tmp_path, kind, None)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:  # stored, not compressed
        archive.writestr("a.mp3", content)
    assert reason_of(tmp_path / "zip") is Reason.NOT_AUDIO
    pdf = tmp_path / "pdf"
    pdf.write_bytes(b"%PDF-1.7\n" + content)
    assert reason_of(pdf) is Reason.NOT_AUDIO


@pytest.mark.parametrize("seed", range(40))
def test_random_bytes_are_no_audio(tmp_path, seed):
    path = tmp_path / "a"
    path.write_bytes(np.random.default_rng(seed).bytes(50_000 + 5_000 * seed))
    assert reason_of(path) in {Reason.NOT_AUDIO, Reason.CORRUPT}


def test_random_bytes_hold_no_chain_of_frames():
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert mpeg_chain(rng.bytes(4 << 20)) == []
    content = rng.integers(0, 256, 1 << 20, dtype=np.uint8)
    content[::64], content[1::64] = 0xFF, 0xFB  # far more sync words than chance gives
    assert mpeg_chain(content.tobytes()) == []
    assert mpeg_chain(b"\xff" * 100_000) == []


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_short_content(count):
    assert mpeg_chain(b"\xff\xfb\x90\x00\0\0\0\0"[:count]) == []


@pytest.mark.parametrize(
    ("header", "length"),
    [
        (b"\xff\xfb\x90\x00", 417),  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz: 144 * 128000 / 44100
        (b"\xff\xfb\x92\x00", 418),  # the same, padded
        (b"\xff\xf3\x80\xc0", 208),  # MPEG-2 layer III, 64 kbit/s, 22.05 kHz: 72 * 64000 / 22050
        (b"\xff\xe3\x48\xc0", 288),  # MPEG-2.5 layer III, 32 kbit/s, 8 kHz: 72 * 32000 / 8000
        (b"\xff\xfd\x80\x00", 417),  # MPEG-1 layer II, 128 kbit/s, 44.1 kHz
        (b"\xff\xff\x44\x00", 128),  # MPEG-1 layer I, 128 kbit/s, 48 kHz: 4 * (12 * 128000 / 48000)
        (b"\xff\xf1\x50\x80\x02\x1f\xfc", 16),  # ADTS: 13 bits of length
    ],
)
def test_frame_lengths_by_the_standards(header, length):
    frame = header.ljust(length, b"\0")
    assert mpeg_chain(b"abc" + frame * 6) == [3]
    assert mpeg_chain(b"abc" + frame * 3) == []
    assert mpeg_chain(b"abc" + (frame + b"\0") * 6) == []


def test_beginnings_are_few_and_inside(tmp_path):
    content = b"x" + (b"OggS\0\x02" + bytes(20) + b"fLaC\0\0\0\x22" + b"WAVEfmt ") * 50
    found = list(find_beginnings(io.BytesIO(content)))
    assert 0 < len(found) <= 8
    assert all(0 < at < len(content) for at in found)


def test_foreign():
    assert is_foreign(io.BytesIO(b"\x89PNG\r\n"))
    assert is_foreign(io.BytesIO(b"name".ljust(257, b"\0") + b"ustar"))
    assert not is_foreign(io.BytesIO(b"RIFF"))
