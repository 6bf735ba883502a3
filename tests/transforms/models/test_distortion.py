"""Measures of an enhancement against closed forms."""

import numpy as np
import pytest

from transforms.models.distortion import energy_loss_db, si_sdr_db


def orthogonal_pair(length=1000, seed=0):
    """Two signals of energy one without a common part."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(length, 2)))
    return basis.T


@pytest.mark.parametrize("ratio_db", [-30.0, -3.0, 0.0, 7.5, 20.0, 90.0])
@pytest.mark.parametrize("scale", [1.0, -1.0, 1e-9, 3e4])
def test_orthogonal_noise_at_a_known_ratio(ratio_db, scale):
    signal, noise = orthogonal_pair()
    estimate = scale * (signal + 10 ** (-ratio_db / 20) * noise)
    assert si_sdr_db(signal, estimate) == pytest.approx(ratio_db, abs=1e-6)
    assert si_sdr_db(1e-5 * signal, estimate) == pytest.approx(ratio_db, abs=1e-6)


def test_noise_that_is_not_orthogonal():
    """Taking half of the signal away makes the noise twice as strong beside the rest."""
    signal, noise = orthogonal_pair()
    assert si_sdr_db(signal, signal - 0.5 * signal + noise) == pytest.approx(-20 * np.log10(2))


@pytest.mark.parametrize("scale", [1.0, -2.0, 1e-6, 1e-200, 1e100])
def test_the_signal_itself_at_any_scale(scale):
    signal, _ = orthogonal_pair()
    assert si_sdr_db(signal, scale * signal) == pytest.approx(120.0)


def test_nothing_of_the_signal():
    signal, noise = orthogonal_pair()
    assert si_sdr_db(signal, 0 * signal) == -120.0
    assert si_sdr_db(signal, noise) == pytest.approx(-120.0)


def test_sixteen_bit_input_does_not_overflow():
    signal = np.array([30_000, -30_000, 20_000, 10_000], np.int16)
    assert si_sdr_db(signal, signal) == pytest.approx(120.0)


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (np.ones(4), np.ones(5), r"\(4,\) and estimate \(5,\) do not fit"),
        (np.ones((2, 4)), np.ones((2, 4)), "do not fit"),
        (np.zeros(4), np.ones(4), "silence"),
    ],
)
def test_what_cannot_be_measured(reference, estimate, message):
    with pytest.raises(ValueError, match=message):
        si_sdr_db(reference, estimate)


@pytest.mark.parametrize(
    ("gain", "loss_db"), [(1.0, 0.0), (0.5, 6.0206), (-0.1, 20.0), (2.0, -6.0206)]
)
def test_energy_that_is_lost(gain, loss_db):
    signal, _ = orthogonal_pair()
    assert energy_loss_db(signal, gain * signal) == pytest.approx(loss_db, abs=1e-3)


def test_energy_of_silence():
    signal, _ = orthogonal_pair()
    assert energy_loss_db(0 * signal, 0 * signal) == 0.0
    assert energy_loss_db(signal, 0 * signal) == pytest.approx(120.0)
