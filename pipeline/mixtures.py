"""Clean recordings mixed with synthesised noises: what enhancers learn from, and are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.prepare import to_float
from transforms.errors import InputError
from transforms.noises import NOISES, Noise, make_noise, mixed
from transforms.records import FloatArray

_QUIETEST_DB, _LOUDEST_DB = -25.0, -1.0  # peaks of clean clips, decibels of full scale
_PAUSE_SECONDS = 0.05, 0.5  # between short recordings of one clip
_LEAST_DEVIATION = 1e-3  # a quieter clip is drawn again
_TRIES = 20


@dataclass(frozen=True)
class Recordings:
    """Clean recordings by source: a label (music, speech) of one performer each.

    Parameters
    ----------
    samples : sequence of int16, shape (samples,) each
    kinds : sequence of str
        By recording.
    performers : sequence of str
        By recording: short recordings of one performer are strung together.
    sample_rate_hz : int
    """

    samples: Sequence[npt.NDArray[np.int16]]
    kinds: Sequence[str]
    performers: Sequence[str]
    sample_rate_hz: int

    def of(self, performers: set[str]) -> Recordings:
        """Those of some performers."""
        kept = [i for i, name in enumerate(self.performers) if name in performers]
        return Recordings(
            [self.samples[i] for i in kept],
            [self.kinds[i] for i in kept],
            [self.performers[i] for i in kept],
            self.sample_rate_hz,
        )

    def others(self, performer: str) -> Recordings:
        """Those of all other performers.

        Raises
        ------
        InputError
            If there are none.
        """
        found = self.of(set(self.performers) - {performer})
        if not found.samples:
            raise InputError(
                f"--data: babble is made of other performers, and {performer!r} is the only one "
                "here; add recordings of another"
            )
        return found

    def clip(
        self, kind: str | None, length: int, rng: np.random.Generator
    ) -> tuple[FloatArray, str]:
        """A stretch of one recording, or recordings of one performer with pauses.

        Parameters
        ----------
        kind : str, optional
            Of the recordings; any where None, all kinds alike.
        length : int
            Samples.
        rng : numpy.random.Generator

        Returns
        -------
        samples : float32, shape (length,)
            Silence only if recordings hold nothing else.
        performer : str
        """
        kind = kind or str(rng.choice(sorted(set(self.kinds))))
        chosen = [i for i, own in enumerate(self.kinds) if own == kind]
        clip = np.zeros(length, dtype=np.float32)
        for _ in range(_TRIES):
            first = int(rng.choice(chosen))
            clip = self._strung(first, chosen, length, rng)
            if clip.std() > _LEAST_DEVIATION:
                break
        return clip, self.performers[first]

    def _strung(
        self, first: int, among: list[int], length: int, rng: np.random.Generator
    ) -> FloatArray:
        samples = self.samples[first]
        if len(samples) >= length:
            start = int(rng.integers(0, len(samples) - length + 1))
            return to_float(samples[start : start + length])
        own = [i for i in among if self.performers[i] == self.performers[first]]
        clip = np.zeros(length, dtype=np.float32)
        at, index = 0, first
        while at < length:
            part = to_float(self.samples[index])[: length - at]
            clip[at : at + len(part)] = part
            at += len(part) + int(rng.uniform(*_PAUSE_SECONDS) * self.sample_rate_hz)
            index = int(rng.choice(own))
        return clip


@dataclass(frozen=True)
class Mixture:
    """One clip with and without noise."""

    kind: str  # of the clean recording
    noise: Noise | None  # None: clean
    snr_db: float
    clean: FloatArray  # (samples,)
    noisy: FloatArray  # (samples,)


def make_mixture(
    recordings: Recordings,
    kind: str | None,
    noise: Noise | None,
    snr_db: float,
    length: int,
    rng: np.random.Generator,
) -> Mixture:
    """A clip at a random level, with a noise ``snr_db`` under it.

    Babble is of performers other than the clip's own.
    """
    clean, performer = recordings.clip(kind, length, rng)
    peak = max(float(np.abs(clean).max()), 1e-6)
    clean = clean * np.float32(10 ** (rng.uniform(_QUIETEST_DB, _LOUDEST_DB) / 20) / peak)
    noisy = clean
    if noise is not None:
        rate_hz = recordings.sample_rate_hz
        voices = recordings.others(performer) if noise == "babble" else recordings
        sound = make_noise(noise, length, rate_hz, rng, lambda n, r: voices.clip(None, n, r)[0])
        noisy = mixed(clean, sound, snr_db)
    return Mixture(kind or "any", noise, snr_db, clean, noisy)


def judged_mixtures(
    recordings: Recordings,
    *,
    seconds: float,
    snrs_db: Sequence[float],
    each: int,
    seed: int,
) -> Iterator[Mixture]:
    """``each`` mixtures of every kind of recording, noise and level, always the same ones."""
    length = round(seconds * recordings.sample_rate_hz)
    for kind in sorted(set(recordings.kinds)):
        for noise_index, noise in enumerate(NOISES):
            for snr_db in snrs_db:
                for number in range(each):
                    level = round(10 * snr_db) % 2**32  # seeds are not negative
                    place = [seed, noise_index, level, number]
                    rng = np.random.default_rng(place)
                    yield make_mixture(recordings, kind, noise, snr_db, length, rng)


def example_mixture(recordings: Recordings, noise: Noise, *, seed: int) -> Mixture:
    """One mixture to look at: four seconds with a noise 5 dB under the sound."""
    rng = np.random.default_rng([seed, NOISES.index(noise)])
    return make_mixture(recordings, None, noise, 5.0, 4 * recordings.sample_rate_hz, rng)
