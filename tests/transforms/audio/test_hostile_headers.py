"""Headers that claim far more than the file holds: nothing is allocated on their word."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.audio_files import noise, write_pyav, write_soundfile
from tests.decoding import decode, reason_of
from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason

ROOT = Path(__file__).parents[3]
MOST_MIB = 256  # beyond what the imports take; a block is 1 MiB, a decoder's buffers a few

PROGRAM = """
import resource, sys
from pathlib import Path
from transforms.audio.decoders import open_audio
from transforms.errors import StageError
def peak_mib():
    scale = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
before = peak_mib()
try:
    with open_audio(Path(sys.argv[1]), max_seconds=float(sys.argv[2])) as audio:
        audio.exact_frames
        for _ in audio.blocks(): pass
        print(audio.frames, *audio.warnings)
except StageError as error:
    print(error.reason.value)
print(peak_mib() - before)
"""


def decode_apart(path, max_seconds=3_600.0) -> tuple[str, float]:
    """What became of a file, and by how many MiB a process grew over it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path), str(max_seconds)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said, grown = done.stdout.splitlines()
    return said, float(grown)


def put(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def wav(folder: Path) -> bytes:
    return write_soundfile(folder / "x", noise(0.01), 44_100, "WAV", "PCM_16").read_bytes()


def wav_of_4_gb(folder: Path) -> bytes:
    content = put(wav(folder), 4, struct.pack("<I", 0xEFFF_FFF0))
    return put(content, content.index(b"data") + 4, struct.pack("<I", 0xEFFF_FF00))


def wav_of_65535_channels(folder: Path) -> bytes:
    return put(wav(folder), 22, b"\xff\xff")


def wav_of_4_ghz(folder: Path) -> bytes:
    return put(wav(folder), 24, b"\xff\xff\xff\xff")


def wav_with_a_huge_format(folder: Path) -> bytes:
    return put(wav(folder), 16, b"\xff\xff\xff\x7f")


def flac_of_2_36_samples(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.1), 44_100, "FLAC", "PCM_16")
    content = path.read_bytes()
    return put(content, 21, bytes([content[21] | 0x0F]) + b"\xff" * 4)


def flac_with_a_huge_picture(folder: Path) -> bytes:
    picture = struct.pack(">II", 3, 10) + b"image/jpeg" + bytes(20) + b"\xff\xff\xff\xff"
    head = flac_of_2_36_samples(folder)
    block = b"\x06" + len(picture).to_bytes(3, "big") + picture
    return head[:4] + b"\x00" + head[5:42] + block + head[42:]


def mp4_with_a_huge_table(folder: Path, name: bytes) -> bytes:
    content = write_pyav(folder / "x", noise(0.5), 44_100, "ipod", "aac").read_bytes()
    return put(
        content, content.index(name) + 4 + (8 if name == b"stsz" else 4), b"\x0f\xff\xff\xff"
    )


def aiff_of_4_gb(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.01), 44_100, "AIFF", "PCM_16")
    content = path.read_bytes()
    content = put(content, content.index(b"SSND") + 4, b"\xff\xff\xff\x00")
    return put(content, content.index(b"COMM") + 10, b"\x7f\xff\xff\xff")


def caf_of_2_63_bytes(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.01), 44_100, "CAF", "PCM_16")
    content = path.read_bytes()
    return put(content, content.rindex(b"data") + 4, b"\x7f" + b"\xff" * 7)


def caf_with_a_huge_table(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.1), 44_100, "CAF", "ALAC_16")
    content = path.read_bytes()
    return put(content, content.index(b"pakt") + 12, b"\x0f" + b"\xff" * 7)


def matroska_with_huge_elements(folder: Path) -> bytes:
    content = write_pyav(folder / "x", noise(0.5), 44_100, "matroska", "aac").read_bytes()
    at = content.index(b"\x63\xa2") + 2  # CodecPrivate
    return put(content, at, b"\x08\x7f\xff\xff\xff")


def w64_of_2_63_bytes(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.01), 44_100, "W64", "PCM_16")
    content = path.read_bytes()
    return put(content, content.index(b"data\xf3\xac") + 16, b"\xff" * 7 + b"\x7f")


def au_of_4_gb(folder: Path) -> bytes:
    path = write_soundfile(folder / "x", noise(0.01), 44_100, "AU", "PCM_16")
    return put(path.read_bytes(), 8, b"\x7f\xff\xff\xf0")


def id3_that_claims_256_mb(folder: Path) -> bytes:
    mp3 = write_soundfile(folder / "x", noise(1.0), 44_100, "MP3").read_bytes()
    return b"ID3\x03\0\0\x7f\x7f\x7f\x7f" + b"APIC\x7f\xff\xff\xff\0\0" + mp3


HOSTILE = {
    function.__name__: function
    for function in (
        wav_of_4_gb, wav_of_65535_channels, wav_of_4_ghz, wav_with_a_huge_format,
        flac_of_2_36_samples, flac_with_a_huge_picture, aiff_of_4_gb, caf_of_2_63_bytes,
        caf_with_a_huge_table, matroska_with_huge_elements, w64_of_2_63_bytes, au_of_4_gb,
        id3_that_claims_256_mb,
    )
} | {
    f"mp4_{name.decode()}": lambda folder, name=name: mp4_with_a_huge_table(folder, name)
    for name in (b"stsz", b"stts", b"stsc", b"stco", b"stsd")
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_allocated_from_a_header(tmp_path, name):
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[name](tmp_path))
    _, grown = decode_apart(path)
    assert grown < MOST_MIB


def id3_picture(size: int) -> bytes:
    frame = b"\0image/jpeg\0\x03\0" + bytes(size)
    frames = b"APIC" + len(frame).to_bytes(4, "big") + b"\0\0" + frame
    size = len(frames)
    return b"ID3\x03\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + frames


def test_20_mb_of_cover_art_in_an_mp3(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(2.0), 44_100, "MP3")
    path.write_bytes(id3_picture(20_000_000) + path.read_bytes())
    said, grown = decode_apart(path)
    assert int(said.split()[0]) > 1.9 * 44_100
    assert grown < MOST_MIB


def test_16_mb_of_cover_art_in_a_flac(tmp_path):
    path = write_soundfile(tmp_path / "a", noise(2.0), 44_100, "FLAC")
    content = path.read_bytes()
    art = bytes(16_000_000)  # a block of metadata holds no more
    picture = struct.pack(">II10s", 3, 10, b"image/jpeg") + bytes(20)
    picture += len(art).to_bytes(4, "big") + art
    block = b"\x06" + len(picture).to_bytes(3, "big") + picture
    path.write_bytes(content[:42] + block + content[42:])
    said, grown = decode_apart(path)
    assert said == str(2 * 44_100)
    assert grown < MOST_MIB


@pytest.mark.parametrize(
    ("kind", "subtype", "seconds"), [("FLAC", "PCM_16", 7_200), ("OGG", "OPUS", 1_200)]
)
def test_much_silence_in_a_small_file(tmp_path, kind, subtype, seconds):
    """Held back as a number, and ended by ``max_seconds``."""
    silence = np.zeros((8_000 * seconds, 1), np.float32)
    path = write_soundfile(tmp_path / "a", silence, 8_000, kind, subtype)
    assert path.stat().st_size < 600_000
    said, grown = decode_apart(path, max_seconds=seconds / 2)
    frames, *warnings = said.split()
    assert int(frames) == 8_000 * seconds // 2
    # Opus does not give back quite nothing for nothing.
    silent = [DecodeWarning.SILENT.value] if kind == "FLAC" else []
    assert warnings == [*silent, DecodeWarning.TOO_LONG.value]
    assert grown < MOST_MIB


def test_a_wav_that_claims_4_gb_is_truncated(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(wav_of_4_gb(tmp_path))
    decoded, _, warnings = decode(path)
    assert len(decoded) == 441
    assert warnings == (DecodeWarning.TRUNCATED.value,)


def test_headers_without_a_file_behind_them(tmp_path):
    for name, make in HOSTILE.items():
        path = tmp_path / name
        path.write_bytes(make(tmp_path)[:24])
        assert reason_of(path) in {Reason.CORRUPT, Reason.NOT_AUDIO}
