"""How good an enhancer is on mixtures, beside spectral gating on the very same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from pipeline.mixtures import Mixture, Recordings, judged_mixtures
from transforms.models.distortion import energy_loss_db, si_sdr_db
from transforms.models.enhancer import Enhancer
from transforms.noises import NOISES
from transforms.records import FloatArray

LEVELS_DB = (0.0, 5.0, 10.0, 15.0, 20.0)
CLIP_SECONDS = 4.0
EACH = 6
"""Mixtures of each kind of recording, noise and level, unless another number is asked for."""

Method: TypeAlias = Callable[[FloatArray], FloatArray]
"""Takes noisy samples, (samples,) at the enhancer's rate, and gives as many enhanced ones."""


@dataclass(frozen=True)
class Judgement:
    """What one method did to one mixture."""

    method: str
    kind: str
    noise: str
    snr_db: float
    improvement_db: float  # scale-invariant SDR, enhanced over noisy


@dataclass(frozen=True)
class CleanJudgement:
    """What one method did to one clean clip."""

    method: str
    kind: str
    loss_db: float  # how much quieter it became
    si_sdr_db: float  # enhanced against clean: the higher the less was changed


@dataclass(frozen=True)
class Report:
    """An enhancer's figures, method by method."""

    mixtures: list[Judgement]
    clean: list[CleanJudgement]

    def mean(self, method: str, **which: Any) -> float:
        """Mean improvement in decibels over the mixtures of a noise, level or kind."""
        found = [
            j.improvement_db
            for j in self.mixtures
            if j.method == method and all(getattr(j, key) == value for key, value in which.items())
        ]
        return float(np.mean(found))

    @property
    def methods(self) -> list[str]:
        """In the order in which they were asked."""
        return list(dict.fromkeys(j.method for j in self.mixtures))

    def to_json(self) -> dict[str, Any]:
        """By noise and level, by kind, and on clean input; means of decibels."""
        levels = sorted({j.snr_db for j in self.mixtures})
        kinds = sorted({j.kind for j in self.mixtures})
        return {
            method: {
                "mean": self.mean(method),
                "by_noise_and_level": {
                    noise: {f"{level:g}": self.mean(method, noise=noise, snr_db=level)
                            for level in levels}
                    for noise in NOISES
                },
                "by_kind": {kind: self.mean(method, kind=kind) for kind in kinds},
                "clean": self._on_clean(method),
            }
            for method in self.methods
        }  # fmt: skip

    def _on_clean(self, method: str) -> dict[str, float]:
        own = [asdict(j) for j in self.clean if j.method == method]
        losses, ratios = ([j[key] for j in own] for key in ("loss_db", "si_sdr_db"))
        return {
            "loss_db": float(np.mean(losses)),
            "largest_loss_db": float(np.max(losses)),
            "si_sdr_db": float(np.median(ratios)),
        }


def methods_beside(enhancer: Enhancer) -> dict[str, Method]:
    """The enhancer, and noisereduce's spectral gating in both of its modes."""
    from noisereduce import reduce_noise

    rate_hz = enhancer.front_end.sample_rate_hz

    def gate(stationary: bool) -> Method:
        return lambda samples: np.asarray(
            reduce_noise(y=samples, sr=rate_hz, stationary=stationary, n_jobs=1), np.float32
        )

    return {
        "model": lambda samples: np.asarray(enhancer.enhance(samples[None])[0][0], np.float32),
        "spectral gate": gate(stationary=True),
        "spectral gate, moving": gate(stationary=False),
    }


def judge(
    recordings: Recordings,
    methods: dict[str, Method],
    *,
    each: int,
    seed: int,
    levels_db: Sequence[float] = LEVELS_DB,
) -> Report:
    """Enhance mixtures of recordings by all methods, and measure.

    Parameters
    ----------
    recordings : Recordings
        Of performers that the enhancer has not learned from.
    methods : dict
    each : int
        Mixtures of each kind of recording, noise and level.
    seed : int
    levels_db : sequence of float
        Signal-to-noise ratios.
    """
    mixtures = list(
        judged_mixtures(
            recordings, seconds=CLIP_SECONDS, snrs_db=levels_db, each=each, seed=seed
        )
    )
    heard = [mixture for mixture in mixtures if mixture.clean.any() and mixture.noise]
    return Report(
        [j for name, method in methods.items() for j in _judged(name, method, heard)],
        [j for name, method in methods.items() for j in _judged_clean(name, method, heard)],
    )


def _judged(name: str, method: Method, mixtures: Iterable[Mixture]) -> Iterable[Judgement]:
    for mixture in mixtures:
        before = si_sdr_db(mixture.clean, mixture.noisy)
        after = si_sdr_db(mixture.clean, method(mixture.noisy))
        noise = str(mixture.noise)
        yield Judgement(name, mixture.kind, noise, mixture.snr_db, after - before)


def _judged_clean(
    name: str, method: Method, mixtures: Sequence[Mixture]
) -> Iterable[CleanJudgement]:
    for mixture in mixtures[:: len(NOISES)]:
        enhanced = method(mixture.clean)
        yield CleanJudgement(
            name,
            mixture.kind,
            energy_loss_db(mixture.clean, enhanced),
            si_sdr_db(mixture.clean, enhanced),
        )
