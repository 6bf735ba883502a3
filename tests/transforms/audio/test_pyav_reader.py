from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import av
import numpy as np
import pytest
import soxr

from tests.audio_files import noise, sine, write_dsf, write_pyav, write_soundfile
from tests.decoding import check_content, damaged, decode, reason_of
from transforms.audio.pyav_reader import PyAVReader
from transforms.audio.readers import AudioInfo, DecodeWarning
from transforms.errors import Reason

# What a file holds more than was put in, in frames: a codec's delay and padding.
PYAV = [
    # container, codec, rate, container found, codec found, least and most excess, tolerance
    ("ipod", "aac", 44_100, "mp4", "aac", 0, 2_048, None),
    ("adts", "aac", 44_100, "aac", "aac", 0, 2_048, None),
    ("mpegts", "aac", 44_100, "mpegts", "aac", 0, 2_048, None),
    ("ipod", "alac", 44_100, "mp4", "alac", 0, 0, 1e-4),
    ("asf", "wmav2", 44_100, "asf", "wmav2", -2_048, 2_048, None),
    ("wv", "wavpack", 44_100, "wv", "wavpack", 0, 0, 1e-4),
    ("tta", "tta", 44_100, "tta", "tta", 0, 0, 1e-4),
    ("matroska", "pcm_s16le", 44_100, "matroska", "pcm_s16", 0, 0, 1e-4),
    ("webm", "libopus", 48_000, "matroska", "opus", 0, 960, None),
]


@pytest.mark.parametrize(
    ("muxer", "encoder", "rate", "container", "codec", "least", "most", "tolerance"), PYAV
)
def test_what_pyav_reads(tmp_path, muxer, encoder, rate, container, codec, least, most, tolerance):
    original = sine(1.5, rate)
    path = write_pyav(tmp_path / "a.bin", original, rate, muxer, encoder)
    decoded, info, warnings = decode(path)
    assert info == AudioInfo(container, codec, "pyav", rate, 2)
    assert warnings == ()
    assert least <= len(decoded) - len(original) <= most
    check_content(decoded, original, tolerance)


def test_eight_planes_of_pyav(tmp_path):
    original = sine(0.5, channels=8)
    path = write_pyav(tmp_path / "a", original, 44_100, "wv", "wavpack")
    np.testing.assert_allclose(decode(path)[0], original, atol=1e-4)


def test_a_new_rate_and_layout_in_the_middle(tmp_path):
    first, second = sine(1.0, 44_100, 2), sine(1.0, 32_000, 1)
    chain = write_soundfile(tmp_path / "1", first, 44_100, "OGG", "VORBIS").read_bytes()
    chain += write_soundfile(tmp_path / "2", second, 32_000, "OGG", "VORBIS").read_bytes()
    path = tmp_path / "chain"
    path.write_bytes(chain)
    decoded, info, warnings = decode(path)
    assert (info.sample_rate_hz, info.channels) == (44_100, 2)
    assert abs(len(decoded) - 2 * 44_100) < 1_000
    assert warnings == (DecodeWarning.STREAM_CHANGE.value,)
    later = soxr.resample(second, 32_000, 44_100)
    check_content(decoded[-len(later) :], later, None)


def test_ffmpeg_says_nothing_on_stderr(tmp_path, capfd):
    path = write_pyav(tmp_path / "a", sine(2.0), 44_100, "ipod", "aac")
    damaged(path, lambda b: b[:3_000] + bytes(2_000) + b[5_000:])
    decode(path)
    assert capfd.readouterr().err == ""


def test_one_bit_sound(tmp_path):
    decoded, info, warnings = decode(write_dsf(tmp_path / "a", 0.3))
    assert (info.container, info.codec, info.channels) == ("dsf", "dsd_lsbf_planar", 2)
    assert abs(len(decoded) / info.sample_rate_hz - 0.3) < 0.02
    assert warnings == ()
    t = np.arange(len(decoded)) / info.sample_rate_hz
    tone = np.exp(-2j * np.pi * 1_000 * t) @ decoded[:, 0] * 2 / len(decoded)
    assert 0.2 < abs(tone) < 0.7


@pytest.mark.parametrize(
    ("container", "codec", "least_s"),
    [("ipod", "aac", 7.5), ("matroska", "aac", 6.5), ("asf", "wmav2", 7.5), ("adts", "aac", 7.5),
     ("mp2", "mp2", 7.5), ("mpegts", "aac", 7.5), ("tta", "tta", 6.5), ("wv", "wavpack", 7.0),
     ("ac3", "ac3", 7.5), ("avi", "mp3", 7.5), ("flv", "aac", 7.5)],
)  # fmt: skip
@pytest.mark.parametrize("filling", ["zeros", "random"])
def test_a_hole_in_the_middle(tmp_path, container, codec, least_s, filling):
    path = write_pyav(tmp_path / "a", noise(8.0), 44_100, container, codec)
    piece = bytes(4_000) if filling == "zeros" else np.random.default_rng(0).bytes(4_000)

    def hole(content):
        middle = len(content) // 2
        content[middle : middle + 4_000] = piece
        return content

    decoded, _, _ = decode(damaged(path, hole))
    assert least_s < len(decoded) / 44_100 < 8.5


class FailingContainer:
    """A demuxer that fails before each packet of ``failures``, and then goes on behind it."""

    def __init__(self, container, failures):
        self._container, self._failures = container, list(failures)

    def __getattr__(self, name):
        return getattr(self._container, name)

    def demux(self, stream):
        for packet in self._container.demux(stream):
            if self._failures and self._failures.pop(0):
                raise av.InvalidDataError(1094995529, "damaged")
            yield packet


@pytest.mark.parametrize(
    ("failures", "complete"), [([0, 0, 1, 1, 1, 0, 1], True), ([1] * 500, False)]
)
def test_a_demuxer_that_fails_is_asked_again_but_not_for_ever(tmp_path, failures, complete):
    path = write_pyav(tmp_path / "a", noise(8.0), 44_100, "adts", "aac")
    with path.open("rb", buffering=0) as file:
        reader = PyAVReader(file)
        container, stream, context = reader._container, reader._stream, reader._context
        container.seek(0)
        failing = FailingContainer(container, failures)
        frames = sum(f.samples for f in reader._decoded(failing, stream, context))
        reader.close()
    assert DecodeWarning.CORRUPT_FRAMES in reader.warnings
    assert (frames > 7.5 * 44_100) == complete


@contextlib.contextmanager
def listener(kind: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield sock


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "m3u": "#EXTM3U\n{}\n",
    "ffconcat": "ffconcat version 1.0\nfile {}\n",
    "pls": "[playlist]\nFile1={}\nNumberOfEntries=1\n",
    "asx": '<ASX version="3.0"><Entry><Ref href="{}"/></Entry></ASX>',
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" bandwidth="1000">'
    "<BaseURL>{}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("extension", ["", ".m3u8", ".mp3"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch, kind, extension):
    write_soundfile(tmp_path / "other.wav", sine(1.0), 44_100, "WAV")
    write_pyav(tmp_path / "other.ts", sine(1.0), 44_100, "mpegts", "aac")
    monkeypatch.chdir(tmp_path)  # ffmpeg resolves plain names here
    path = tmp_path / f"list{extension}"
    for other in ("other.wav", "other.ts"):
        for name in (other, f"{tmp_path}/{other}", f"file:{other}", f"file://{tmp_path}/{other}"):
            path.write_text(PLAYLISTS[kind].format(name))
            assert reason_of(path) is Reason.NOT_AUDIO


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_no_connection(tmp_path, kind):
    with listener(socket.SOCK_STREAM) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.ts"
        (tmp_path / "list").write_text(PLAYLISTS[kind].format(url))
        assert reason_of(tmp_path / "list") is Reason.NOT_AUDIO
        with pytest.raises(BlockingIOError):  # nobody waits to be accepted
            server.accept()


def test_a_session_description_opens_no_port(tmp_path):
    """Else ffmpeg would wait there for packets that never come."""
    with listener(socket.SOCK_DGRAM) as taken:
        port = taken.getsockname()[1] // 2 * 2
    text = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n" \
        f"m=audio {port} RTP/AVP 0\na=rtpmap:0 PCMU/8000\n"  # fmt: skip
    (tmp_path / "a.sdp").write_text(text)
    assert reason_of(tmp_path / "a.sdp") is Reason.NOT_AUDIO
