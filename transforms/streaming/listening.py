"""How streams are heard: the settings, and what follows them in a worker's process."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from transforms.denoise import Denoiser
from transforms.models.checkpoint import find_same, read_config
from transforms.models.front_end import FrontEnd
from transforms.models.sequence import SequenceModel, load_weights, settings_of
from transforms.provenance import Provenance
from transforms.scores import LabelRule
from transforms.streaming.denoising import StreamDenoiser
from transforms.streaming.follower import Follower
from transforms.streaming.ordering import OrderRules
from transforms.streaming.recogniser import StreamRecogniser
from transforms.streaming.running_label import RunningLabel


@dataclass(frozen=True, kw_only=True)
class ListenSettings:
    """How streams are heard; times are event time."""

    model: str  # a recogniser's name or path
    fingerprint: str  # of its checkpoint
    front_end: FrontEnd
    rule: LabelRule
    provenance: Provenance
    half_life_seconds: float | None  # after which what was heard counts half; None: for ever
    min_segment_seconds: float = 0.5
    silence_seconds: float = 10.0
    idle_seconds: float = 10.0  # without a block, until what is open is told
    forget_seconds: float = 3_600.0  # without a block, until the stream is forgotten
    order: OrderRules = field(default_factory=OrderRules)
    denoiser: Denoiser | None = None

    @property
    def idle_us(self) -> int:
        """``idle_seconds`` in microseconds."""
        return round(1e6 * self.idle_seconds)

    @property
    def forget_us(self) -> int:
        """``forget_seconds`` in microseconds."""
        return round(1e6 * self.forget_seconds)


@functools.lru_cache(maxsize=2)
def load_follower(settings: ListenSettings) -> Follower:
    """What follows streams, with its weights: once in a process, whatever becomes of a DoFn.

    Raises
    ------
    WorkerError
        If one of the checkpoints is not on this machine.
    CheckpointError
        If its weights cannot be loaded.
    """
    folder, front_end = find_same(settings.model, settings.fingerprint), settings.front_end
    network = load_weights(folder, settings_of(read_config(folder)))
    half_life_frames = None
    if settings.half_life_seconds is not None:
        frames_per_second = front_end.sample_rate_hz / front_end.hop_length
        half_life_frames = settings.half_life_seconds * frames_per_second
    recogniser = StreamRecogniser(SequenceModel(network, half_life_frames), front_end)
    running_label = RunningLabel(
        settings.rule,
        recogniser.frame_seconds,
        settings.min_segment_seconds,
        settings.silence_seconds,
    )
    denoiser = None
    if settings.denoiser is not None:
        denoiser = StreamDenoiser(settings.denoiser.load())
    return Follower(
        recogniser,
        running_label,
        settings.provenance,
        denoiser,
        idle_us=settings.idle_us,
        forget_us=settings.forget_us,
    )
