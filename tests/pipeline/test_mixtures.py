"""Clips of clean recordings, and what is mixed with them."""

import itertools

import numpy as np
import pytest

from pipeline.mixtures import Recordings, judged_mixtures, make_mixture
from transforms.errors import InputError
from transforms.noises import NOISES

RATE_HZ = 8_000


def constant(level, seconds):
    return np.full(round(seconds * RATE_HZ), level, np.int16)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def music_and_speech():
    """One long noise; short recordings of two speakers, of whom one says 1000s and one 2000s."""
    long = (3_000 * rng(9).standard_normal(5 * RATE_HZ)).astype(np.int16)
    spoken = [constant(level, 0.3) for level in (1_000, 2_000) for _ in range(3)]
    return Recordings(
        [long, *spoken], ["music", *["speech"] * 6], ["band", *"aaabbb"], RATE_HZ
    )


def test_those_of_some_performers(music_and_speech):
    found = music_and_speech.of({"b", "band"})
    assert found.performers == ["band", "b", "b", "b"]
    assert found.kinds == ["music", "speech", "speech", "speech"]
    assert [len(samples) for samples in found.samples] == [5 * RATE_HZ] + [2_400] * 3
    assert found.sample_rate_hz == RATE_HZ


def test_a_stretch_of_a_long_recording(music_and_speech):
    clip, performer = music_and_speech.clip("music", 2 * RATE_HZ, rng())
    assert performer == "band"
    whole = music_and_speech.samples[0] / 32_767
    starts = np.flatnonzero(np.isclose(whole, clip[0]))
    assert any(np.allclose(whole[s : s + len(clip)], clip, atol=1e-6) for s in starts)
    assert clip.dtype == np.float32


@pytest.mark.parametrize("seed", range(6))
def test_short_recordings_of_one_performer_are_strung_with_pauses(music_and_speech, seed):
    clip, performer = music_and_speech.clip("speech", RATE_HZ, rng(seed))
    assert clip.shape == (RATE_HZ,)
    (level,) = set(np.round(clip[clip != 0] * 32_767))
    assert (level, performer) in [(1_000, "a"), (2_000, "b")]
    runs = [(sounds, len(list(run))) for sounds, run in itertools.groupby(clip != 0)]
    assert runs[0] == (True, 2_400)
    for sounds, length in runs[1:-1]:
        assert length == 2_400 if sounds else 0.05 * RATE_HZ - 1 <= length <= 0.5 * RATE_HZ


def test_kinds_are_drawn_alike_however_many_recordings_they_have(music_and_speech):
    constant_clips = sum(
        len(set(music_and_speech.clip(None, 100, rng(seed))[0])) == 1 for seed in range(300)
    )
    # Of speech, 100 samples of one recording: the deviation is nil, so all tries are spent.
    assert constant_clips / 300 == pytest.approx(0.5, abs=0.1)


def test_a_quiet_stretch_is_drawn_again():
    samples = np.concatenate([constant(0, 1.0), (3_000 * rng().standard_normal(RATE_HZ))])
    recordings = Recordings([samples.astype(np.int16)], ["music"], ["a"], RATE_HZ)
    assert all(recordings.clip(None, 800, rng(seed))[0].any() for seed in range(50))


def test_nothing_but_silence_ends_too():
    recordings = Recordings([constant(0, 0.1)], ["music"], ["a"], RATE_HZ)
    assert not recordings.clip(None, RATE_HZ, rng())[0].any()
    mixture = make_mixture(recordings, None, "white", 5.0, RATE_HZ, rng())
    assert not mixture.noisy.any()


@pytest.mark.parametrize("noise", NOISES)
def test_a_mixture_has_its_ratio_and_a_level_in_range(music_and_speech, noise):
    peaks = []
    for seed in range(20):
        mixture = make_mixture(music_and_speech, "music", noise, 7.0, RATE_HZ, rng(seed))
        added = mixture.noisy.astype(np.float64) - mixture.clean
        powers = [np.mean(np.square(x, dtype=np.float64)) for x in (mixture.clean, added)]
        assert 10 * np.log10(powers[0] / powers[1]) == pytest.approx(7.0, abs=0.01)
        assert (mixture.kind, mixture.noise, mixture.snr_db) == ("music", noise, 7.0)
        peaks.append(20 * np.log10(np.abs(mixture.clean).max()))
    assert -25.01 <= min(peaks) < -15 < max(peaks) <= -0.99


def test_without_a_noise_it_is_clean(music_and_speech):
    mixture = make_mixture(music_and_speech, None, None, 5.0, RATE_HZ, rng())
    np.testing.assert_array_equal(mixture.noisy, mixture.clean)
    assert (mixture.kind, mixture.noise) == ("any", None)


def test_judged_mixtures_are_all_of_them_and_always_the_same(music_and_speech):
    def made(seed):
        return list(
            judged_mixtures(
                music_and_speech, seconds=0.5, snrs_db=(-5.0, 10.0), each=2, seed=seed
            )
        )

    first, again, other = made(1), made(1), made(2)
    places = [(m.kind, m.noise, m.snr_db) for m in first]
    expected = itertools.product(("music", "speech"), NOISES, (-5.0, 10.0), range(2))
    assert places == [place[:3] for place in expected]
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.noisy, two.noisy)
        assert not np.array_equal(one.noisy, three.noisy)
    assert len({m.noisy.tobytes() for m in first}) == len(first)


@pytest.mark.parametrize("seed", range(10))
def test_babble_is_of_other_performers(seed):
    """Each performer has a tone of his own: none of the clip's own is in its babble."""
    seconds = np.arange(RATE_HZ) / RATE_HZ
    tones = {name: 200.0 * (n + 1) for n, name in enumerate("abcd")}
    samples = [
        np.round(8_000 * np.sin(2 * np.pi * hz * seconds)).astype(np.int16)
        for hz in tones.values()
    ]
    recordings = Recordings(samples, ["speech"] * 4, list(tones), RATE_HZ)
    mixture = make_mixture(recordings, None, "babble", 0.0, RATE_HZ, rng(seed))
    own_hz = int(np.abs(np.fft.rfft(mixture.clean)).argmax())
    spectrum = np.abs(np.fft.rfft(mixture.noisy - mixture.clean))
    assert own_hz in tones.values()
    assert spectrum[own_hz] < 1e-3 * spectrum.max()


def test_babble_needs_another_performer():
    recordings = Recordings([constant(1_000, 1.0)], ["speech"], ["a"], RATE_HZ)
    with pytest.raises(InputError, match="'a' is the only one"):
        make_mixture(recordings, None, "babble", 0.0, 100, rng())
