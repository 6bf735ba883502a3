"""The enhancers' training: spectra as in use, a loss of closed form, batches that repeat."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from pipeline.fit_enhancer import (
    EnhancerRecipe,
    Spectral,
    fit_enhancer,
    make_batches,
    negative_snr_db,
)
from pipeline.mixtures import Recordings
from pipeline.train_enhancer import held_out_performers
from tests.checkpoints import random_network
from transforms.errors import UsageError
from transforms.models.enhancer import Enhancer, SpectrumFrontEnd
from transforms.models.sequence import SequenceModel, SequenceSettings

FRONT_ENDS = [
    SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=128, hop_length=64),
    SpectrumFrontEnd(sample_rate_hz=8_000, n_fft=128, hop_length=32),
]
RECIPE = EnhancerRecipe(
    cell="gru", epochs=3, front_end=FRONT_ENDS[0], hidden_size=8, layers=1, steps_per_epoch=4,
    batch_size=4, clip_seconds=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def recordings():
    seconds = np.arange(16_000) / 8_000
    sounds = [np.sin(2 * np.pi * hz * seconds) * np.sin(5 * seconds) for hz in (300, 450, 700)]
    samples = [(20_000 * sound).astype(np.int16) for sound in sounds]
    return Recordings(samples, ["music", "music", "speech"], list("abc"), 8_000)


def masked(spectral, network, samples):
    """What a training step makes of noisy samples, (clips, samples)."""
    with torch.no_grad():
        spectra = spectral.spectra(torch.from_numpy(samples))
        mask, _ = network(spectral.features(spectra))
        return spectral.samples(spectra * mask).numpy()


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=["half", "quarter"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "cnn"])
def test_training_hears_what_the_enhancer_says(front_end, cell):
    settings = SequenceSettings(
        head="enhancement", cell=cell, inputs=front_end.bins, outputs=front_end.bins,
        hidden_size=12, layers=2,
    )  # fmt: skip
    network = random_network(settings, seed=1).eval()
    samples = 0.2 * np.random.default_rng(0).standard_normal((2, 40 * front_end.hop_length))
    samples = samples.astype(np.float32)
    samples[1, :300] = 0.0  # silence has magnitudes under the smallest
    expected, _ = Enhancer(SequenceModel(network), front_end).enhance(samples)
    found = masked(Spectral(front_end), network, samples)
    assert found.shape == expected.shape == samples.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - samples).max() > 0.05  # the masks do something


@pytest.mark.parametrize("front_end", FRONT_ENDS, ids=["half", "quarter"])
def test_spectra_and_back(front_end):
    spectral = Spectral(front_end)
    samples = torch.randn(3, 10 * front_end.hop_length, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(spectral.samples(spectral.spectra(samples)), samples, atol=1e-5)


def test_the_loss_has_a_closed_form():
    """An error of a hundredth of the energy is 20 dB; with a ceiling of 30 a little less."""
    clean = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
    estimate = torch.stack([1.1 * clean[0], 0.0 * clean[1]])
    each = [10 * np.log10(0.01 + 1e-3), 10 * np.log10(1 + 1e-3)]
    found = negative_snr_db(clean, estimate, 30.0)
    assert float(found) == pytest.approx(np.mean(each), abs=1e-4)


def test_the_loss_is_softly_limited():
    clean = torch.ones(1, 100)
    assert float(negative_snr_db(clean, clean, 30.0)) == pytest.approx(-30.0, abs=1e-4)
    assert float(negative_snr_db(clean, clean, 12.0)) == pytest.approx(-12.0, abs=1e-4)


def test_silence_has_a_finite_loss_and_gradient():
    silence = torch.zeros(1, 100)
    estimate = torch.full((1, 100), 0.01, requires_grad=True)
    loss = negative_snr_db(silence, estimate, 30.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(estimate.grad).all()


def arrays(batches):
    return [array for batch in batches for array in (batch.clean, batch.noisy)]


def test_batches_repeat_with_seed_and_epoch(recordings):
    first, again = (arrays(make_batches(recordings, RECIPE, 2)) for _ in range(2))
    assert len(first) == 2 * RECIPE.steps_per_epoch
    for one, two in zip(first, again, strict=True):
        assert one.shape == (4, RECIPE.clip_samples)
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, two)
    others = [
        arrays(make_batches(recordings, RECIPE, 3)),
        arrays(make_batches(recordings, dataclasses.replace(RECIPE, seed=1), 2)),
    ]
    assert not any(np.array_equal(first[0], other[0]) for other in others)
    assert not np.array_equal(first[0], first[2])


def test_clips_are_whole_hops():
    recipe = dataclasses.replace(RECIPE, clip_seconds=0.3)
    assert recipe.clip_samples == 2_368 == 37 * 64


def test_a_share_of_the_clips_is_clean(recordings):
    recipe = dataclasses.replace(RECIPE, clean_share=0.5, steps_per_epoch=60)
    clean = [
        np.array_equal(noisy, sound)
        for batch in make_batches(recordings, recipe, 1)
        for sound, noisy in zip(batch.clean, batch.noisy, strict=True)
    ]
    assert np.mean(clean) == pytest.approx(0.5, abs=0.1)


def test_training_lowers_the_loss_and_repeats(recordings):
    recipe = dataclasses.replace(
        RECIPE, epochs=4, steps_per_epoch=20, learning_rate=0.02, clean_share=0.0, snr_db=(0.0, 0.0)
    )
    lines = []
    found, again = (
        fit_enhancer(recordings, recipe, report=lines.append) for _ in range(2)
    )
    assert lines == [*found.history, *again.history]
    assert found.history == again.history
    losses = [metrics["train_loss"] for metrics in found.history]
    assert losses[-1] < losses[0]
    for one, two in itertools.zip_longest(
        found.network.state_dict().values(), again.network.state_dict().values()
    ):
        assert torch.equal(one, two)


def test_training_begins_with_a_mask_that_keeps_most(recordings):
    recipe = dataclasses.replace(RECIPE, epochs=1, steps_per_epoch=1, learning_rate=1e-9)
    network = fit_enhancer(recordings, recipe).network
    batch = next(make_batches(recordings, recipe, 5))
    spectral = Spectral(recipe.front_end)
    with torch.no_grad():
        mask, _ = network(spectral.features(spectral.spectra(torch.from_numpy(batch.noisy))))
    assert 0.6 < float(mask.mean()) < 0.85


def test_held_out_performers_say_when_to_stop(recordings):
    """Where nothing is learned the loss never falls, and patience ends the training."""
    recipe = dataclasses.replace(
        RECIPE, epochs=6, patience=2, learning_rate=0.0, held_out_share=0.5
    )
    found = fit_enhancer(recordings, recipe, held_out=recordings)
    losses = [metrics["validation_loss"] for metrics in found.history]
    assert losses == [losses[0]] * 3
    assert found.best_epoch == 1


def test_performers_are_held_out_by_share_and_seed():
    learned = {f"p{n}" for n in range(10)}
    recipe = dataclasses.replace(RECIPE, held_out_share=0.25)
    held_out = held_out_performers(learned, recipe)
    assert len(held_out) == 3
    assert held_out < learned
    assert held_out == held_out_performers(learned, recipe)
    assert held_out != held_out_performers(learned, dataclasses.replace(recipe, seed=1))
    assert held_out_performers(learned, RECIPE) == set()
    with pytest.raises(UsageError, match="1 performers are too few"):
        held_out_performers({"p0"}, recipe)
