"""Silence is believed where both decoders hear it. No codec here is wrong: one is made to be."""

from __future__ import annotations

import numpy as np
import pytest

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.decoding import decode
from transforms.audio import choice
from transforms.audio.decoders import open_audio
from transforms.audio.readers import DecodeWarning

SILENT = DecodeWarning.SILENT.value


def deafened(reader, sounds_from=None):
    """A reader that gives zeros up to a frame, or always."""

    class Deafened(reader):
        def blocks(self):
            at = 0
            for block in super().blocks():
                if sounds_from is None or at + len(block) <= sounds_from:
                    block = np.zeros_like(block)
                at += len(block)
                yield block

    return Deafened


@pytest.fixture
def asked(monkeypatch):
    """Names of the readers that are made."""
    names: list[str] = []
    for name in ("SoundFileReader", "PyAVReader"):
        original = getattr(choice, name)

        class Noted(original):
            def __init__(self, *args, _name=name, **options):
                names.append(_name)
                super().__init__(*args, **options)

        monkeypatch.setattr(choice, name, Noted)
    return names


@pytest.mark.parametrize(("kind", "subtype"), [("MP3", None), ("OGG", "VORBIS"), ("FLAC", None)])
def test_sound_of_the_other_decoder_stands_for_silence(tmp_path, monkeypatch, kind, subtype):
    sound = noise(4.0)
    path = write_soundfile(tmp_path / "a", sound, 44_100, kind, subtype)
    expected = len(decode(path)[0])
    monkeypatch.setattr(choice, "SoundFileReader", deafened(choice.SoundFileReader))
    decoded, info, warnings = decode(path)
    assert info.decoder == "pyav"
    assert warnings == ()
    assert abs(len(decoded) - expected) < 3_000
    assert decoded.std() > 0.05


def test_the_other_way_round(tmp_path, monkeypatch):
    link = write_soundfile(tmp_path / "1", noise(4.0), 44_100, "OGG", "VORBIS").read_bytes()
    path = tmp_path / "chain"
    path.write_bytes(link + link)
    assert decode(path)[1].decoder == "pyav"
    monkeypatch.setattr(choice, "PyAVReader", deafened(choice.PyAVReader))
    decoded, info, warnings = decode(path)
    assert info.decoder == "soundfile" and warnings == ()
    assert decoded.std() > 0.05


@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_silence_of_pcm_is_believed_at_once(tmp_path, asked, subtype):
    path = write_soundfile(tmp_path / "a", sine(2.0) * 0, 44_100, "WAV", subtype)
    assert decode(path)[2] == (SILENT,)
    assert asked == ["SoundFileReader"]


def test_silence_of_both_decoders_is_believed(tmp_path, asked):
    path = write_soundfile(tmp_path / "a", sine(4.0) * 0, 44_100, "FLAC", "PCM_16")
    decoded, info, warnings = decode(path)
    assert len(decoded) == 4 * 44_100 and not decoded.any()
    assert warnings == (SILENT,) and info.decoder == "soundfile"
    assert asked == ["SoundFileReader", "PyAVReader"]
    path = write_pyav(tmp_path / "b", sine(2.0) * 0, 44_100, "ipod", "aac")
    assert decode(path)[2] == (SILENT,)


def test_sound_is_not_decoded_twice(tmp_path, asked):
    sound = noise(8.0)
    sound[: 5 * 44_100] = 0
    path = write_soundfile(tmp_path / "a", sound, 44_100, "FLAC", "PCM_16")
    np.testing.assert_allclose(decode(path)[0], sound, atol=1e-4)
    assert asked == ["SoundFileReader"]


def test_long_leading_silence_goes_on_where_it_was(tmp_path, monkeypatch, asked):
    """Beyond what is held back the other decoder has been asked, and the first one goes on."""
    monkeypatch.setattr("transforms.audio.decoders.DOUBTED_SECONDS", 3.0)
    sound = noise(20.0)
    sound[: 15 * 44_100] = 0
    path = write_soundfile(tmp_path / "a", sound, 44_100, "FLAC", "PCM_16")
    decoded, info, warnings = decode(path)
    np.testing.assert_allclose(decoded, sound, atol=1e-4)
    assert info.decoder == "soundfile" and warnings == ()
    assert asked == ["SoundFileReader", "PyAVReader"]


def test_held_back_silence_takes_no_memory(tmp_path):
    """The blocks of held back silence come in the usual sizes and in the right number."""
    sound = np.zeros((30 * 44_100, 2), np.float32)
    sound[-1] = 0.5
    path = write_soundfile(tmp_path / "a", sound, 44_100, "FLAC", "PCM_16")
    with open_audio(path) as audio:
        sizes = [block.size for block in audio.blocks()]
    assert sum(sizes) == sound.size and max(sizes) <= 4 * 65_536
