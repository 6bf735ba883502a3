"""MP3 files as encoders, taggers and splitters leave them."""

from __future__ import annotations

from pathlib import Path

import soundfile as sf

from tests.audio_files import Samples


def write_mp3(
    path: Path, samples: Samples, rate: int, mode: str = "CONSTANT", level: float = 0.6
) -> Path:
    """Encode with LAME; level 0 is the best quality, and just below 1 the smallest file."""
    with sf.SoundFile(
        path, "w", rate, samples.shape[1], format="MP3", bitrate_mode=mode, compression_level=level
    ) as file:
        file.write(samples)
    return path


def behind_id3(content: bytes, size: int) -> bytes:
    """Put an empty ID3v2 tag in front."""
    sevens = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + sevens + bytes(size) + content


def untagged(content: bytes) -> bytes:
    """Take LAME's own packet away, as splitters do: what follows it begins with a sync word."""
    tag = content.find(b"LAME", 0, 300)
    return content if tag < 0 else content[content.index(content[:2], tag) :]
