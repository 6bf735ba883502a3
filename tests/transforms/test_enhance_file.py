from __future__ import annotations

import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from tests.audio_files import noise, sine, write_soundfile
from tests.enhanced import make_16khz_enhancer
from transforms import enhance_file as module
from transforms.audio.sandbox import Sandbox
from transforms.enhance_file import EnhanceSettings, Workplace, enhance_file, enhanced_path
from transforms.errors import Reason, StageError, StorageError
from transforms.fetch import fetched
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import SpectrumFrontEnd
from transforms.stopwatch import StopWatch

NONE = EnhanceSettings(method="none")
SHA = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> EnhanceSettings:
    """Of a mask of one, so that only the DC offset goes."""
    folder = make_16khz_enhancer(tmp_path_factory.mktemp("models") / "ones", all_pass=True)
    return EnhanceSettings(
        model=str(folder), model_fingerprint=fingerprint_of(folder), front_end=SpectrumFrontEnd()
    )


@pytest.fixture
def enhance(sandbox, tmp_path):
    def call(path: Path, settings: EnhanceSettings = NONE) -> dict:
        workplace = Workplace(str(tmp_path / "out"), str(tmp_path / "drafts"), sandbox, StopWatch())
        with fetched(str(path)) as source:
            return enhance_file(str(path), source, settings, workplace)

    return call


def read(facts: dict) -> np.ndarray:
    return sf.read(facts["output"], dtype="float32", always_2d=True)[0]


def write(path: Path, samples: np.ndarray, rate: int = 44_100, subtype: str = "FLOAT") -> Path:
    return write_soundfile(path, samples, rate, "WAV", subtype)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
def test_a_mask_of_one_leaves_all_but_the_dc_offset(enhance, model, tmp_path, rate, channels):
    offsets = np.linspace(-0.2, 0.3, channels)
    samples = (0.3 * sine(0.7, rate, channels) + offsets).astype(np.float32)
    facts = enhance(write(tmp_path / "a.wav", samples, rate), model)
    expected = samples - samples.mean(axis=0, dtype=np.float64)
    assert np.abs(read(facts) - expected).max() < 1e-6 + 2**-24
    np.testing.assert_allclose(facts["dc_offset"], samples.mean(axis=0, dtype=np.float64))
    assert (facts["sample_rate_hz"], facts["channels"]) == (rate, channels)
    assert facts["duration_s"] == len(samples) / rate
    assert facts["rms_before"] == pytest.approx(np.sqrt(np.square(expected).mean()), rel=1e-6)
    assert facts["rms_after"] == pytest.approx(facts["rms_before"], rel=1e-5)


def test_what_a_row_says_of_the_file(enhance, tmp_path):
    path = write(tmp_path / "Ünï [1].wav", noise(0.5, 44_100, 2))
    facts = enhance(path)
    content = Path(facts["output"]).read_bytes()
    assert facts["output_sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["output_size_bytes"] == len(content)
    assert facts["content_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["size_bytes"] == path.stat().st_size
    assert (facts["container"], facts["codec"]) == ("wav", "pcm_f32")
    assert (facts["method"], facts["reconstruct"]) == ("none", "phase")
    assert facts["clipped_samples"] == 0
    assert Path(facts["output"]).name == f"Ünï _1_-{facts['content_sha256'][:32]}.flac"
    assert list((tmp_path / "drafts").iterdir()) == []


def test_what_is_over_full_scale_is_limited_and_counted(enhance, tmp_path):
    samples = 3.0 * sine(0.5, 8_000, 1)
    facts = enhance(write(tmp_path / "loud.wav", samples, 8_000))
    centred = samples - samples.mean()
    assert facts["clipped_samples"] == np.count_nonzero(np.abs(centred) >= 1)
    assert np.abs(read(facts) - np.clip(centred, -1, 1)).max() < 1e-6


@pytest.mark.parametrize("method", ["none", "model", "spectral_gate"])
def test_silence_and_a_constant_become_silence(enhance, model, tmp_path, method):
    settings = dataclasses.replace(model, method=method)
    for level in (0.0, 0.4):
        samples = np.full((30_000, 2), level, np.float32)
        facts = enhance(write(tmp_path / f"{level}.wav", samples), settings)
        assert np.abs(read(facts)).max() < 1e-6
        assert facts["rms_after"] < 1e-6


@pytest.mark.parametrize("method", ["none", "model", "spectral_gate"])
@pytest.mark.parametrize("frames", [1, 2, 300, 3_000])
def test_very_short_files(enhance, model, tmp_path, method, frames):
    samples = noise(1.0, 44_100, 2)[:frames]
    facts = enhance(write(tmp_path / "a.wav", samples), dataclasses.replace(model, method=method))
    assert read(facts).shape == samples.shape


def test_no_sound_at_all_is_a_failure(enhance, tmp_path):
    with pytest.raises(StageError):
        enhance(write(tmp_path / "empty.wav", np.zeros((0, 1), np.float32)))
    assert not (tmp_path / "out").exists()


def test_samples_that_are_no_numbers_are_silenced_and_told(enhance, model, tmp_path):
    samples = noise(0.5, 44_100, 1)
    samples[1_000:1_100] = np.nan
    facts = enhance(write(tmp_path / "nan.wav", samples), model)
    assert facts["decode_warnings"] == ["nan_replaced"]
    assert np.isfinite(read(facts)).all()


@pytest.mark.parametrize(("kind", "bits"), [("flac", 16), ("flac", 24), ("wav", 16), ("wav", 24)])
def test_formats(enhance, tmp_path, kind, bits):
    settings = EnhanceSettings(method="none", format=kind, bits=bits)
    info = sf.info(enhance(write(tmp_path / "a.wav", noise(0.2)), settings)["output"])
    assert (info.format.lower(), info.subtype) == (kind, f"PCM_{bits}")


def test_more_than_flac_holds(enhance, tmp_path):
    path = write(tmp_path / "a.wav", noise(0.2, 44_100, 9))
    with pytest.raises(StageError, match="use --format=wav") as caught:
        enhance(path)
    assert caught.value.reason is Reason.UNSUPPORTED_OUTPUT
    facts = enhance(path, EnhanceSettings(method="none", format="wav"))
    assert read(facts).shape[1] == 9


def test_a_broken_file_leaves_nothing(enhance, tmp_path):
    (tmp_path / "text.mp3").write_text("no music " * 100)
    with pytest.raises(StageError) as caught:
        enhance(tmp_path / "text.mp3")
    assert caught.value.reason is Reason.NOT_AUDIO
    assert not (tmp_path / "out").exists()


def test_what_ends_in_the_middle_leaves_nothing(enhance, tmp_path, monkeypatch):
    """No half file under the final name, and no draft."""

    def broken(*_: object) -> None:
        raise StageError(Reason.INVALID_SAMPLES, "of a test")

    monkeypatch.setattr(module, "_energy", broken)
    with pytest.raises(StageError, match="of a test"):
        enhance(write(tmp_path / "a.wav", noise(3.0)))
    assert [path for path in tmp_path.rglob("*") if path.suffix == ".flac"] == []


def test_a_file_that_changes_meanwhile_is_a_failure(enhance, tmp_path, monkeypatch):
    first = module.look_through

    def longer(audio):
        found = first(audio)
        return dataclasses.replace(found, frames=found.frames + 1)

    monkeypatch.setattr(module, "look_through", longer)
    with pytest.raises(StageError, match="changed while") as caught:
        enhance(write(tmp_path / "a.wav", noise(0.5)))
    assert caught.value.reason is Reason.UNREADABLE


def test_a_result_that_is_no_sound_is_a_failure(enhance, model, tmp_path, monkeypatch):
    class Broken:
        def step(self, samples):
            return np.full_like(samples, np.nan)

    monkeypatch.setattr(module, "make_enhancer", lambda *_: Broken())
    with pytest.raises(StageError, match="not of numbers"):
        enhance(write(tmp_path / "a.wav", noise(0.5)))


@pytest.mark.fault
def test_a_full_disk_is_no_file_s_fault(enhance, tmp_path, monkeypatch):
    class Full(module.SoundWriter):
        def write(self, samples):
            raise self._lost()

    monkeypatch.setattr(module, "SoundWriter", Full)
    with pytest.raises(StorageError, match="No space left"):
        enhance(write(tmp_path / "a.wav", noise(0.5)))
    assert list((tmp_path / "drafts").iterdir()) == []


def test_an_object_store_for_input_and_output(sandbox, tmp_path, memory_files):
    """The draft lies in a folder of the worker, the object appears when it is complete."""
    samples = noise(0.5, 44_100, 2)
    path = write(tmp_path / "a.wav", samples)
    memory_files["memtest://in/a.wav"] = path.read_bytes()
    workplace = Workplace("memtest://out", "memtest://out/drafts", sandbox, StopWatch())
    with fetched("memtest://in/a.wav") as source:
        facts = enhance_file("memtest://in/a.wav", source, NONE, workplace)
    (written,) = (name for name in memory_files if name.startswith("memtest://out"))
    assert written == facts["output"]
    content = memory_files[written]
    assert hashlib.sha256(content).hexdigest() == facts["output_sha256"]
    found, _ = sf.read(io.BytesIO(content), dtype="float32")
    assert np.abs(found - (samples - samples.mean(axis=0, dtype=np.float64))).max() < 1e-6


def test_decoding_stops_at_max_seconds(enhance, tmp_path):
    facts = enhance(write(tmp_path / "a.wav", noise(3.0)), dataclasses.replace(NONE, max_seconds=1))
    assert facts["decode_warnings"] == ["too_long"]
    assert facts["duration_s"] == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    "change",
    [{"method": "spectral_gate"}, {"reconstruct": "griffin_lim"}, {"format": "wav"}, {"bits": 16},
     {"max_seconds": 10.0}, {"front_end": SpectrumFrontEnd(n_fft=1024)}],
)  # fmt: skip
def test_the_fingerprint_changes_with_every_setting(change):
    changed = dataclasses.replace(NONE, **change)
    assert changed.fingerprint() != NONE.fingerprint()
    assert changed.folder != NONE.folder


def test_the_model_has_a_fingerprint_of_its_own(model):
    moved = dataclasses.replace(model, model="/elsewhere")
    other = dataclasses.replace(model, model_fingerprint="f" * 16)
    assert moved.fingerprint() == other.fingerprint() == model.fingerprint()
    assert moved.folder == model.folder != other.folder


@pytest.mark.parametrize(
    ("uri", "stem"),
    [
        ("/music/a.b.flac", "a.b"),
        ("s3://bucket/deep/Song #1?.mp3", "Song _1_"),
        ("/music/../../etc/passwd", "passwd"),
        ("/music/..", "track"),
        ("/music/.hidden", "hidden"),
        ("/music/***.mp3", "_"),
        ("/music/日本語.flac", "日本語"),
        ("/music/a\nb\0c.wav", "a_b_c"),
        ("/music/" + "x" * 300 + ".mp3", "x" * 80),
        ("/music/" + "語" * 100 + ".mp3", "語" * 26),
        ("/music/C:\\x.wav", "C_x"),
    ],
)
def test_names_are_readable_and_stay_in_their_folder(uri, stem):
    path = enhanced_path("/out", NONE, SHA, uri)
    assert path == f"/out/enhanced_audio/{NONE.folder}/01/{stem}-{SHA[:32]}.flac"
    assert len(path.rpartition("/")[2].encode()) < 200


def test_equal_names_of_different_contents_do_not_collide():
    others = {enhanced_path("/out", NONE, c * 64, "/music/a.mp3") for c in "0123456789abcdef"}
    assert len(others) == 16
    remote = enhanced_path("s3://bucket/out", NONE, SHA, "/music/a.mp3")
    assert remote.startswith("s3://bucket/out/enhanced_audio/")
    assert enhanced_path("out", NONE, SHA, "a").startswith("/")
