"""Judging: methods whose effect is known, and spectral gating beside a model."""

import json

import numpy as np
import pytest

from pipeline.judge import CLIP_SECONDS, Report, judge, methods_beside
from pipeline.mixtures import Recordings, judged_mixtures
from tests.checkpoints import make_enhancer
from transforms.models.enhancer import load_enhancer
from transforms.noises import NOISES

RATE_HZ = 4_000
LEVELS_DB = (0.0, 10.0)


@pytest.fixture(scope="module")
def recordings():
    """A chord and a slow sweep, by a performer each, for longer than a clip."""
    seconds = np.arange(6 * RATE_HZ) / RATE_HZ
    chord = sum(np.sin(2 * np.pi * hz * seconds) for hz in (220, 277, 330)) / 3
    sweep = np.sin(2 * np.pi * (200 + 80 * seconds) * seconds)
    samples = [(20_000 * sound).astype(np.int16) for sound in (chord, sweep)]
    return Recordings(samples, ["music", "speech"], ["a", "b"], RATE_HZ)


@pytest.fixture(scope="module")
def report(recordings) -> Report:
    """Of methods that leave, halve or silence, and of one that knows the clean sound."""
    mixtures = judged_mixtures(
        recordings, seconds=CLIP_SECONDS, snrs_db=LEVELS_DB, each=2, seed=5
    )
    clean_of = {mixture.noisy.tobytes(): mixture.clean for mixture in mixtures}
    methods = {
        "leave": lambda samples: samples,
        "halve": lambda samples: samples / 2,
        "silence": lambda samples: 0 * samples,
        "know": lambda samples: clean_of.get(samples.tobytes(), samples),
    }
    return judge(recordings, methods, each=2, seed=5, levels_db=LEVELS_DB)


def test_every_mixture_is_judged_by_every_method(report):
    assert report.methods == ["leave", "halve", "silence", "know"]
    for method in report.methods:
        own = [j for j in report.mixtures if j.method == method]
        assert len(own) == 2 * len(NOISES) * 2 * 2  # kinds, noises, levels, each
        assert {(j.kind, j.noise, j.snr_db) for j in own} == {
            (kind, noise, level)
            for kind in ("music", "speech") for noise in NOISES for level in LEVELS_DB
        }  # fmt: skip


def test_what_changes_nothing_improves_nothing(report):
    assert all(j.improvement_db == 0 for j in report.mixtures if j.method == "leave")


def test_loudness_is_no_improvement(report):
    found = [j.improvement_db for j in report.mixtures if j.method == "halve"]
    np.testing.assert_allclose(found, 0, atol=1e-3)


def test_the_clean_sound_improves_by_all_that_was_missing(report):
    """White noise has next to nothing in common with a chord: the ratio is that of the mixture."""
    for level in LEVELS_DB:
        found = report.mean("know", noise="white", snr_db=level)
        assert found == pytest.approx(120 - level, abs=0.5)


def test_silence_is_no_improvement(report):
    found = [j.improvement_db for j in report.mixtures if j.method == "silence"]
    assert max(found) < -100


def test_what_clean_input_loses(report, recordings):
    """Silence loses the whole energy, down to the floor of 120 dB under a square of 1."""
    mixtures = list(
        judged_mixtures(recordings, seconds=CLIP_SECONDS, snrs_db=LEVELS_DB, each=2, seed=5)
    )[:: len(NOISES)]
    energies = [np.square(mixture.clean, dtype=np.float64).sum() for mixture in mixtures]
    whole_db = 120 + np.mean(10 * np.log10(energies))
    found = report.to_json()
    for method, loss_db, si_sdr_db in (
        ("leave", 0.0, 120.0), ("halve", 6.0206, 120.0), ("silence", whole_db, -120.0)
    ):  # fmt: skip
        clean = found[method]["clean"]
        assert clean["loss_db"] == pytest.approx(loss_db, abs=1e-2)
        assert clean["largest_loss_db"] >= clean["loss_db"] - 1e-9
        assert clean["si_sdr_db"] == pytest.approx(si_sdr_db, abs=0.5)
    assert found["silence"]["clean"]["loss_db"] > 100


def test_the_figures_agree_with_each_other(report):
    found = json.loads(json.dumps(report.to_json()))["know"]
    assert list(found["by_noise_and_level"]) == list(NOISES)
    assert list(found["by_noise_and_level"]["hum"]) == ["0", "10"]
    cells = [value for row in found["by_noise_and_level"].values() for value in row.values()]
    assert np.mean(cells) == pytest.approx(found["mean"])
    assert np.mean(list(found["by_kind"].values())) == pytest.approx(found["mean"])
    assert report.mean("know", kind="music", noise="hum") == pytest.approx(
        np.mean([j.improvement_db for j in report.mixtures
                 if (j.method, j.kind, j.noise) == ("know", "music", "hum")])
    )  # fmt: skip


def test_a_model_beside_spectral_gating(tmp_path):
    """A mask of one changes nothing; gating lowers a steady hiss."""
    enhancer = load_enhancer(str(make_enhancer(tmp_path / "all-pass", all_pass=True)))
    rate_hz = enhancer.front_end.sample_rate_hz
    methods = methods_beside(enhancer)
    assert list(methods) == ["model", "spectral gate", "spectral gate, moving"]
    hiss = (0.1 * np.random.default_rng(0).standard_normal(2 * rate_hz)).astype(np.float32)
    for name, method in methods.items():
        enhanced = method(hiss)
        assert enhanced.shape == hiss.shape
        assert enhanced.dtype == np.float32
        if name == "model":
            np.testing.assert_allclose(enhanced, hiss, atol=1e-5)
        else:
            assert enhanced.std() < 0.8 * hiss.std()
