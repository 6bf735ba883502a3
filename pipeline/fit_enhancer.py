"""The enhancers' training: mixtures in, the clean sound as the target, in the time domain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.mixtures import Recordings, make_mixture
from transforms.models.enhancer import SMALLEST, SpectrumFrontEnd, analysis_window
from transforms.models.sequence import Cell, SequenceSettings
from transforms.noises import NOISES
from transforms.records import FloatArray

if TYPE_CHECKING:
    import torch

    from transforms.models.sequence_training import FitSettings, Fitted

_VALIDATED_BATCHES = 4  # always the same ones
_SAMPLE_BATCHES = 6  # from which the inputs' mean and scale are taken
_FIRST_MASK = 1.0  # logit: training begins near a mask that keeps three quarters


@dataclass(frozen=True, kw_only=True)
class EnhancerRecipe:
    """All settings of an enhancer's training."""

    cell: Cell
    epochs: int
    front_end: SpectrumFrontEnd = field(default_factory=SpectrumFrontEnd)
    hidden_size: int = 192
    layers: int = 2
    steps_per_epoch: int = 60
    batch_size: int = 16
    clip_seconds: float = 3.0
    snr_db: tuple[float, float] = (-3.0, 25.0)
    clean_share: float = 0.12  # of the clips, which have no noise: the model must leave them alone
    ceiling_db: float = 30.0  # a better ratio than this is hardly rewarded any more
    learning_rate: float = 4e-3
    average: float = 0.995
    weight_decay: float = 0.005
    patience: int = 10  # epochs, where performers are held out
    seed: int = 0
    held_out_share: float = 0.0  # of the performers, for early stopping; 0: none

    @property
    def fit(self) -> FitSettings:
        """What the optimiser is told."""
        from transforms.models.sequence_training import FitSettings

        return FitSettings(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            average=self.average,
            weight_decay=self.weight_decay,
            patience=self.patience,
            seed=self.seed,
        )

    @property
    def clip_samples(self) -> int:
        """Samples of a clip: whole hops."""
        hop = self.front_end.hop_length
        return round(self.clip_seconds * self.front_end.sample_rate_hz) // hop * hop


@dataclass(frozen=True)
class EnhancerBatch:
    """What one step learns from."""

    clean: FloatArray  # (clips, samples)
    noisy: FloatArray  # (clips, samples)


def make_batches(
    recordings: Recordings, recipe: EnhancerRecipe, number: int
) -> Iterator[EnhancerBatch]:
    """The batches of an epoch, drawn from the seed and its number."""
    rng = np.random.default_rng([recipe.seed, number])
    for _ in range(recipe.steps_per_epoch):
        mixtures = [
            make_mixture(
                recordings,
                None,
                None if rng.random() < recipe.clean_share else NOISES[rng.integers(len(NOISES))],
                rng.uniform(*recipe.snr_db),
                recipe.clip_samples,
                rng,
            )
            for _ in range(recipe.batch_size)
        ]
        yield EnhancerBatch(
            np.stack([mixture.clean for mixture in mixtures]),
            np.stack([mixture.noisy for mixture in mixtures]),
        )


class Spectral:
    """Short-time spectra and back, on torch: what :class:`Enhancer` does on numpy."""

    def __init__(self, front_end: SpectrumFrontEnd) -> None:
        import torch

        self._front_end = front_end
        self._window = torch.from_numpy(analysis_window(front_end))

    def spectra(self, samples: torch.Tensor) -> torch.Tensor:
        """(clips, samples), whole hops, to (clips, frames, bins)."""
        import torch

        overlap = self._front_end.overlap
        padded = torch.nn.functional.pad(samples, (overlap, overlap))
        frames = padded.unfold(1, self._front_end.n_fft, self._front_end.hop_length)
        spectra: torch.Tensor = torch.fft.rfft(frames * self._window)
        return spectra

    def features(self, spectra: torch.Tensor) -> torch.Tensor:
        """Decimal logarithms of the magnitudes."""
        logarithms: torch.Tensor = spectra.abs().clamp_min(SMALLEST).log10()
        return logarithms

    def samples(self, spectra: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`spectra`."""
        import torch

        front_end, hop = self._front_end, self._front_end.hop_length
        frames = torch.fft.irfft(spectra, n=front_end.n_fft) * self._window
        clips, count, n_fft = frames.shape
        added = frames.new_zeros(clips, count * hop + front_end.overlap)
        for start in range(0, n_fft, hop):
            part = frames[:, :, start : start + hop].reshape(clips, -1)
            added[:, start : start + part.shape[1]] += part
        finished: torch.Tensor = added[:, front_end.overlap : -front_end.overlap]
        return finished


def negative_snr_db(clean: torch.Tensor, estimate: torch.Tensor, ceiling_db: float) -> torch.Tensor:
    """Minus the signal-to-noise ratio, softly limited to ``ceiling_db``, mean over the clips.

    Wisdom et al. (2020), "Unsupervised sound separation using mixture invariant training",
    equation 2.
    """
    limit = 10 ** (-ceiling_db / 10)
    energy = clean.square().sum(dim=1).clamp_min(1e-8)
    error = (estimate - clean).square().sum(dim=1)
    loss: torch.Tensor = 10 * (error / energy + limit).log10().mean()
    return loss


def fit_enhancer(
    recordings: Recordings,
    recipe: EnhancerRecipe,
    *,
    held_out: Recordings | None = None,
    state_path: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda metrics: None,
) -> Fitted:
    """Train an enhancer.

    Parameters
    ----------
    recordings : Recordings
        Of the performers that are learned from.
    recipe : EnhancerRecipe
    held_out : Recordings, optional
        Of others: training stops when the loss on always the same mixtures of theirs no longer
        falls; None trains for all the epochs.
    state_path : Path, optional
        Where the state is kept after each epoch. If the file is there, training goes on from it.
    report : callable
        Is told each epoch's metrics.
    """
    import torch

    from transforms.models.sequence_training import Work, fit_sequence

    spectral = Spectral(recipe.front_end)

    def loss(network: Any, batch: EnhancerBatch) -> torch.Tensor:
        spectra = spectral.spectra(torch.from_numpy(batch.noisy))
        mask, _ = network(spectral.features(spectra))
        estimate = spectral.samples(spectra * mask)
        return negative_snr_db(torch.from_numpy(batch.clean), estimate, recipe.ceiling_db)

    network = _build(recordings, recipe, spectral)
    work = Work(
        lambda epoch: make_batches(recordings, recipe, 1 + epoch), recipe.steps_per_epoch, loss
    )
    validate = None
    if held_out is not None:
        few = replace(recipe, steps_per_epoch=_VALIDATED_BATCHES)
        fixed = list(make_batches(held_out, few, recipe.epochs + 1))

        def validate(candidate: Any) -> dict[str, float]:
            with torch.inference_mode():
                return {"loss": float(np.mean([float(loss(candidate, b)) for b in fixed]))}

    return fit_sequence(
        network, work, recipe.fit, validate=validate, state_path=state_path, report=report
    )


def _build(recordings: Recordings, recipe: EnhancerRecipe, spectral: Spectral) -> Any:
    import torch

    from transforms.models.sequence_network import SequenceNetwork
    from transforms.models.sequence_training import standardise

    torch.manual_seed(recipe.seed)
    bins = recipe.front_end.bins
    network = SequenceNetwork(
        SequenceSettings(
            head="enhancement",
            cell=recipe.cell,
            inputs=bins,
            outputs=bins,
            hidden_size=recipe.hidden_size,
            layers=recipe.layers,
        )
    )
    torch.nn.init.constant_(network.head.mask.bias, _FIRST_MASK)  # type: ignore[union-attr,arg-type]
    sample = itertools.islice(make_batches(recordings, recipe, 0), _SAMPLE_BATCHES)
    frames = [
        spectral.features(spectral.spectra(torch.from_numpy(batch.noisy))).reshape(-1, bins)
        for batch in sample
    ]
    standardise(network, torch.cat(frames))
    return network
