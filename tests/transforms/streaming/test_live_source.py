"""Live sound against the samples that were encoded, and other decoders."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import (
    lag_and_likeness,
    noise,
    sine,
    write_pyav,
    write_soundfile,
    write_streamed_wav,
)
from transforms.errors import Reason, StageError
from transforms.streaming.live_input import Input, open_local
from transforms.streaming.live_source import Conversion, LiveSource


def chirp(seconds: float, rate: int) -> np.ndarray:
    """From 200 Hz to 2 kHz, in stereo: it looks like itself at one place only."""
    t = np.arange(round(seconds * rate)) / rate
    tone = 0.5 * np.sin(2 * np.pi * (200 * t + 900 * t**2 / seconds))
    return np.stack([tone, 0.5 * tone], axis=1).astype(np.float32)


class Memory(Input):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, content: bytes, piece: int = 700) -> None:
        super().__init__("memory")
        self._file, self._piece = io.BytesIO(content), piece
        self.given = 0

    def _read(self, size: int) -> bytes:
        part = self._file.read(min(size, self._piece))
        self.given += len(part)
        return part

    def stop(self) -> None: ...
    def close(self) -> None: ...


def decoded(data: Input, **conversion) -> dict[tuple[int, int], np.ndarray]:
    """Samples by rate and channels, in the order they came."""
    found: dict[tuple[int, int], list[bytes]] = {}
    kind = {"pcm_s16le": "<i2", "pcm_f32le": "<f4"}[conversion.get("encoding", "pcm_s16le")]
    with data:
        for sound in LiveSource(data, Conversion(**conversion)).sounds():
            found.setdefault((sound.sample_rate_hz, sound.channels), []).append(sound.payload)
    return {
        key: np.frombuffer(b"".join(parts), kind).reshape(-1, key[1])
        for key, parts in found.items()
    }


def refused(content: bytes) -> StageError:
    with pytest.raises(StageError) as caught:
        decoded(Memory(content))
    return caught.value


@pytest.fixture(params=["file", "pipe"])
def opened(request):
    files = request.param == "file"
    return lambda path: open_local(str(path)) if files else Memory(path.read_bytes())


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_integers_are_exact(tmp_path, opened, kind, channels):
    path = write_soundfile(tmp_path / "a", noise(1.1, 22_050, channels), 22_050, kind, "PCM_16")
    expected = sf.read(path, dtype="int16", always_2d=True)[0]
    found = decoded(opened(path))
    assert list(found) == [(22_050, channels)]
    np.testing.assert_array_equal(found[22_050, channels], expected)


@pytest.mark.parametrize("channels", [1, 2, 12])
def test_floats_are_exact(tmp_path, opened, channels):
    samples = 4 * noise(0.5, 48_000, channels)  # beyond full scale, too
    path = write_soundfile(tmp_path / "a", samples, 48_000, "WAV", "FLOAT")
    found = decoded(opened(path), encoding="pcm_f32le")
    np.testing.assert_array_equal(found[48_000, channels], samples)


def test_beyond_full_scale_is_clipped(tmp_path):
    samples = np.array([[-3.0], [3.0], [0.5], [0.0]], np.float32)
    path = write_soundfile(tmp_path / "a", np.tile(samples, (500, 1)), 8_000, "WAV", "FLOAT")
    found = decoded(open_local(str(path)))[8_000, 1]
    assert found[:4, 0].tolist() == [-32_768, 32_767, 16_384, 0]


@pytest.mark.parametrize(
    ("name", "container", "codec"),
    [("a.mp3", "", "MP3"), ("a.ogg", "", "VORBIS"), ("a.aac", "adts", "aac"),
     ("a.ts", "mpegts", "aac"), ("a.mka", "matroska", "flac")],
)  # fmt: skip
def test_what_stations_send(tmp_path, opened, name, container, codec):
    samples = chirp(2.0, 44_100)
    path = tmp_path / name
    if container:
        write_pyav(path, samples, 44_100, container, codec)
    elif codec == "MP3":
        write_soundfile(path, samples, 44_100, "MP3")
    else:
        write_soundfile(path, samples, 44_100, "OGG", codec)
    (found,) = decoded(opened(path), encoding="pcm_f32le").values()
    assert abs(len(found) - len(samples)) < 3_000  # a codec's padding
    assert lag_and_likeness(found, samples, 2_500)[1] > 0.99


def test_a_wav_that_states_no_length(tmp_path):
    samples = noise(0.7, 16_000, 1)
    path = write_streamed_wav(tmp_path / "a.wav", samples, 16_000, 0xFFFF_FFFF)
    expected = np.frombuffer(path.read_bytes()[-2 * len(samples) :], "<i2")
    np.testing.assert_array_equal(decoded(Memory(path.read_bytes()))[16_000, 1][:, 0], expected)


def test_sound_comes_soon(tmp_path):
    """Live, a second of it is a second to wait."""
    path = write_soundfile(tmp_path / "a.wav", noise(5, 44_100, 2), 44_100, "WAV", "PCM_16")
    data = Memory(path.read_bytes())
    next(LiveSource(data, Conversion()).sounds())
    assert data.given < 0.5 * 44_100 * 4


CHAIN = [(44_100, 2, "VORBIS"), (32_000, 1, "VORBIS"), (48_000, 2, "OPUS"), (44_100, 1, "VORBIS")]


def test_a_chain_of_titles(tmp_path, opened):
    chain, expected = b"", {}
    for rate, channels, codec in CHAIN:
        path = write_soundfile(
            tmp_path / f"{rate}{channels}", sine(0.5, rate, channels), rate, "OGG", codec
        )
        chain += path.read_bytes()
        expected[rate, channels] = sf.read(path, dtype="float32", always_2d=True)[0]
    path = tmp_path / "chain"
    path.write_bytes(chain)
    found = decoded(opened(path), encoding="pcm_f32le")
    assert list(found) == list(expected)
    for key, samples in expected.items():
        assert abs(len(samples) - len(found[key])) < 0.005 * key[0]  # ffmpeg drops a frame
        assert lag_and_likeness(found[key], samples, 300)[1] > 0.999


def test_a_new_rate_in_mid_stream(tmp_path):
    first = write_soundfile(tmp_path / "1", sine(1, 44_100, 2), 44_100, "MP3").read_bytes()
    second = write_soundfile(tmp_path / "2", sine(1, 32_000, 1), 32_000, "MP3").read_bytes()
    found = decoded(Memory(first + second))
    assert abs(len(found[44_100, 2]) - 44_100) < 3_000
    assert abs(len(found[32_000, 1]) - 32_000) < 3_000


def test_conversion(tmp_path):
    tone = sine(1.0, 44_100, 2)
    path = write_soundfile(tmp_path / "a.wav", tone, 44_100, "WAV", "FLOAT")
    found = decoded(open_local(str(path)), sample_rate_hz=16_000, channels=1, encoding="pcm_f32le")
    (samples,) = found.values()
    t = np.arange(16_000) / 16_000
    expected = sum(0.25 * np.sin(2 * np.pi * hz * t) for hz in (440, 550))
    assert list(found) == [(16_000, 1)]
    assert len(samples) == 16_000
    assert np.abs(samples[200:-200, 0] - expected[200:-200]).max() < 0.01


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_f32le"])
def test_a_mix_is_a_mean_in_both_encodings(tmp_path, encoding):
    loud = np.full((8_000, 2), 0.9, np.float32)
    path = write_soundfile(tmp_path / "a.wav", loud, 8_000, "WAV", "FLOAT")
    mono = decoded(open_local(str(path)), encoding=encoding, channels=1)[8_000, 1]
    scale = 32_768 if encoding == "pcm_s16le" else 1
    np.testing.assert_allclose(mono / scale, 0.9, atol=1e-4)


def test_silence(tmp_path):
    path = write_soundfile(tmp_path / "a.mp3", np.zeros((44_100, 1), np.float32), 44_100, "MP3")
    (found,) = decoded(Memory(path.read_bytes())).values()
    assert not found.any()


def test_behind_a_large_tag(tmp_path):
    size = 300_000
    tag = b"ID3\x03\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(size)
    path = write_soundfile(tmp_path / "a.mp3", sine(1), 44_100, "MP3")
    assert len(decoded(Memory(tag + path.read_bytes()))[44_100, 2]) > 44_000


def test_damage_is_skipped(tmp_path):
    content = bytearray(write_soundfile(tmp_path / "a.mp3", sine(3), 44_100, "MP3").read_bytes())
    content[20_000:21_500] = bytes(1_500)
    source = LiveSource(Memory(bytes(content)), Conversion())
    seconds = float(sum(sound.seconds for sound in source.sounds()))
    assert 2.7 < seconds < 3.1


PLAYLISTS = {
    "m3u": b"#EXTM3U\n#EXTINF:-1,x\nhttp://radio.example/live.mp3\n",
    "plain m3u": b"http://radio.example/live.mp3\n",
    "file in an m3u": b"file:///etc/passwd\n",
    "hls": b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    "pls": b"[playlist]\nFile1=http://radio.example/live.mp3\n",
    "asx": b"<asx version='3.0'><entry><ref href='http://radio.example/live.mp3'/></entry></asx>",
    "xspf": b"<?xml version='1.0'?>\n<playlist version='1'></playlist>",
    "dash": b"<?xml version='1.0'?><MPD></MPD>",
    "ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
}


@pytest.mark.parametrize("content", PLAYLISTS.values(), ids=PLAYLISTS)
def test_playlists_are_not_followed(content):
    error = refused(content)
    assert error.reason is Reason.NOT_AUDIO
    assert "is a playlist" in error.message
    if b"http" in content and b"?xml" not in content:
        assert error.message.endswith("perhaps http://radio.example/live.mp3")


FOREIGN = {
    "html": b"<!DOCTYPE html><html><body>404</body></html>" * 50,
    "text": b"no sound at all\n" * 100,
    "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    b"m=audio 5004 RTP/AVP 0\n",
    "a byte": b"x",
    # Marks that ffmpeg knows, and that name another file behind the first bytes.
    "hidden hls": b" " * 600 + PLAYLISTS["hls"],
    "bom": b"\xef\xbb\xbf" + PLAYLISTS["hls"],
    "ogg without sound": b"OggS" + bytes(5_000),
    "riff without sound": b"RIFF\xff\xff\xff\xffWAVE",
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_what_is_not_audio(content):
    error = refused(content)
    assert error.reason in (Reason.NOT_AUDIO, Reason.CORRUPT)
    assert "check the source" in error.message


def test_nothing():
    assert refused(b"").reason is Reason.EMPTY_FILE


def test_mp4_must_be_sought(tmp_path):
    path = write_pyav(tmp_path / "a.m4a", noise(1), 44_100, "mp4", "aac")
    assert "by its path" in refused(path.read_bytes()).message
    assert len(decoded(open_local(str(path)))[44_100, 2]) > 44_000


def test_more_channels_than_blocks_hold_are_mixed_if_asked(tmp_path):
    samples = noise(0.2, 8_000, 2)
    head = struct.pack("<4sI4s", b"RIFF", 0xFFFF_FFFF, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 40, 8_000, 640_000, 80, 16)
    data = np.repeat(samples[:, :1], 40, axis=1)
    payload = np.rint(data * 32_768).astype("<i2").tobytes()
    path = Path(tmp_path / "wide.wav")
    path.write_bytes(head + form + struct.pack("<4sI", b"data", len(payload)) + payload)
    assert list(decoded(open_local(str(path)))) == [(8_000, 40)]
