"""Short files in every format that can be written here, and ways to damage them, by seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.audio_files import noise, sine, write_dsf, write_pyav, write_soundfile

SOUNDFILE = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "PCM_U8"),
    ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAV", "ULAW"), ("AIFF", "PCM_16"),
    ("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("W64", "PCM_16"),
    ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
PYAV = [
    ("ipod", "aac"), ("ipod", "alac"), ("adts", "aac"), ("asf", "wmav2"), ("matroska", "pcm_s16le"),
    ("matroska", "aac"), ("webm", "libopus"), ("ogg", "libopus"), ("ogg", "flac"),
    ("wv", "wavpack"), ("tta", "tta"), ("ac3", "ac3"), ("mp2", "mp2"), ("mpegts", "aac"),
    ("avi", "mp3"), ("flv", "aac"), ("nut", "pcm_s16le"),
]  # fmt: skip


def write_samples(folder: Path) -> list[Path]:
    """One short file of each format, named after it; the same ones on every run."""
    paths = []
    for index, (kind, subtype) in enumerate(SOUNDFILE):
        rate = 48_000 if subtype == "OPUS" else 44_100
        sound = sine(0.4, rate, 2) + noise(0.4, rate, 2, seed=index)
        paths.append(write_soundfile(folder / f"{kind}-{subtype}", sound, rate, kind, subtype))
    for container, codec in PYAV:
        rate = 48_000 if codec == "libopus" else 44_100
        sound = sine(0.5, rate, 2) + noise(0.5, rate, 2)
        path = folder / f"{container}-{codec}"
        paths.append(write_pyav(path, sound, rate, container, codec))
    mono = write_soundfile(folder / "MP3-mono", noise(1.0, 22_050, 1), 22_050, "MP3")
    speech = write_pyav(folder / "amr", noise(1.0, 8_000, 1), 8_000, "amr", "libopencore_amrnb")
    return [*paths, mono, speech, write_dsf(folder / "dsf", 0.3)]


Change = Callable[[bytearray, bytes, np.random.Generator], bytearray]


def flip_bits(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    for _ in range(int(2 ** rng.uniform(0, 8))):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    return content


def flip_header_bits(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    head = flip_bits(content[:256], other, rng)
    return head + content[256:]


def extreme_header(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 4))):
        width = int(rng.choice([1, 2, 4, 8]))
        values = (bytes(width), b"\xff" * width, b"\x7f" + b"\xff" * (width - 1),
                  b"\xff" * (width - 1) + b"\x7f", b"\x80" + bytes(width - 1),
                  bytes(width - 1) + b"\x01", b"\x01" + bytes(width - 1))  # fmt: skip
        at = int(rng.integers(min(len(content), 1_024)))
        content[at : at + width] = values[rng.integers(len(values))]
    return content


def truncate(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return content[: int(rng.integers(len(content)))]


def behead(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return content[int(len(content) * rng.uniform(0, 0.5)) :]


def splice(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    at, begin = int(rng.integers(len(content))), int(rng.integers(len(other)))
    piece = other[begin : begin + int(2 ** rng.uniform(3, 14))]
    kept = at + (len(piece) if rng.integers(2) else 0)  # written over, or put between
    return content[:at] + piece + content[kept:]


def two_files(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    return content + other


def chunk(content: bytearray, other: bytes, rng: np.random.Generator) -> bytearray:
    at, size = int(rng.integers(len(content))), int(2 ** rng.uniform(0, 13))
    piece = content[at : at + size]
    put = (b"", piece * 2, bytes(len(piece)), rng.bytes(len(piece)))[rng.integers(4)]
    content[at : at + size] = put
    return content


CHANGES: list[Change] = [
    flip_bits, flip_header_bits, extreme_header, truncate, behead, splice, two_files, chunk,
]  # fmt: skip


def damage(samples: list[tuple[str, bytes]], seed: int) -> tuple[str, bytes]:
    """Name and bytes of a case: every format in turn, damaged once or several times."""
    rng = np.random.default_rng(seed)
    name, sample = samples[seed % len(samples)]
    content = bytearray(sample)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        change = CHANGES[rng.integers(len(CHANGES))]
        other = samples[rng.integers(len(samples))][1]
        content = change(content or bytearray(1), other, rng)
        name += f" {change.__name__}"
    return name, bytes(content)
