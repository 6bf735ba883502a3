"""Audio that tests make for themselves, and what it should decode to."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile as sf

Samples = npt.NDArray[np.float32]


def sine(seconds: float = 2.0, rate: int = 44_100, channels: int = 2, hz: float = 440.0) -> Samples:
    """A tone of peak 0.5 whose frequency rises with the channel: (frames, channels)."""
    t = np.arange(round(seconds * rate)) / rate
    tones = [0.5 * np.sin(2 * np.pi * (hz + 110 * c) * t) for c in range(channels)]
    return np.stack(tones, axis=1).astype(np.float32)


def noise(seconds: float = 2.0, rate: int = 44_100, channels: int = 2, seed: int = 0) -> Samples:
    shape = (round(seconds * rate), channels)
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def write_soundfile(
    path: Path, samples: Samples, rate: int, kind: str, subtype: str | None = None
) -> Path:
    """Write with libsndfile, in pieces: its Vorbis encoder cannot take many frames at once."""
    with sf.SoundFile(path, "w", rate, samples.shape[1], subtype, format=kind) as file:
        for start in range(0, len(samples), 4_096):
            file.write(samples[start : start + 4_096])
    return path


def write_pyav(path: Path, samples: Samples, rate: int, container: str, codec: str) -> Path:
    """Write with one of ffmpeg's own encoders."""
    layout = {1: "mono", 2: "stereo", 8: "7.1"}[samples.shape[1]]
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 12_200 if container == "amr" else 192_000
        forms = stream.codec_context.codec.audio_formats
        form = next(f for f in forms if f.bits > 8)  # u8 comes first in some
        stream.codec_context.format = form
        stream.codec_context.open()  # the frame size is known only then
        fitted = av.AudioResampler(form, layout, rate, frame_size=stream.frame_size or 1_024)
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), "flt", layout)
        frame.sample_rate = rate
        for part in [*fitted.resample(frame), *fitted.resample(None)]:
            file.mux(stream.encode(part))
        # FLAC's last packet is empty and only brings a new header, which some muxers refuse.
        file.mux([packet for packet in stream.encode(None) if packet.size])
    return path


def write_streamed_wav(path: Path, samples: Samples, rate: int, size: int = 0) -> Path:
    """A WAV as a program writes it that cannot seek back: ``size`` in place of the length."""
    write_soundfile(path, samples, rate, "WAV", "PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[4:8] = content[at : at + 4] = struct.pack("<I", size)
    path.write_bytes(content)
    return path


def lag_and_likeness(decoded: Samples, original: Samples, most: int) -> tuple[int, float]:
    """How many frames ``decoded`` comes late (-most..most), and its correlation there."""
    inner = original[most : most + 8_000, 0]
    best = (0, -1.0)
    for lag in range(-most, most + 1):
        part = decoded[most + lag :, 0][: len(inner)]
        if len(part) == len(inner):
            likeness = float(np.corrcoef(part, inner)[0, 1])
            best = max(best, (lag, likeness), key=lambda pair: pair[1])
    return best


def write_dsf(path: Path, seconds: float = 0.3, rate: int = 2_822_400, channels: int = 2) -> Path:
    """One-bit sound in Sony's DSF: a tone by first-order noise shaping."""
    wave = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(round(seconds * rate)) / rate)
    level = np.floor(np.cumsum((1 + wave) / 2))
    bits = np.diff(level, prepend=0.0).astype(np.uint8)
    block = np.packbits(bits, bitorder="little")
    block = np.pad(block, (0, -len(block) % 4_096), constant_values=0x69)
    data = np.repeat(block.reshape(-1, 1, 4_096), channels, axis=1).tobytes()
    fmt = struct.pack(
        "<4sQIIIIIIQII", b"fmt ", 52, 1, 0, 2, channels, rate, 1, len(bits), 4_096, 0
    )  # fmt: skip
    size = 28 + 52 + 12 + len(data)
    head = struct.pack("<4sQQQ", b"DSD ", 28, size, 0)
    path.write_bytes(head + fmt + struct.pack("<4sQ", b"data", 12 + len(data)) + data)
    return path
