"""What a stream run was asked for, looked up: the recogniser, and how streams are heard."""

from __future__ import annotations

from pipeline import __version__
from pipeline.run_id import new_run_id
from pipeline.stream_arguments import StreamConfig
from transforms.denoise import find_denoiser
from transforms.errors import CheckpointError, FrontEndError
from transforms.models.checkpoint import SEQUENCE, Checkpoint, load_checkpoint, name_of
from transforms.provenance import Provenance
from transforms.scores import LabelRule
from transforms.streaming.listening import ListenSettings
from transforms.streaming.ordering import OrderRules


def listen_settings(config: StreamConfig) -> ListenSettings:
    """Look everything up, before any work.

    Raises
    ------
    UsageError
        With what is wrong, and its remedy.
    """
    checkpoint = find_recogniser(config.model)
    front_end = checkpoint.front_end
    return ListenSettings(
        model=name_of(checkpoint.folder),
        fingerprint=checkpoint.fingerprint,
        front_end=front_end,
        rule=LabelRule(checkpoint.labels, checkpoint.unknown_threshold),
        provenance=Provenance(
            model_fingerprint=checkpoint.fingerprint,
            front_end_fingerprint=front_end.fingerprint(),
            pipeline_version=__version__,
            run_id=new_run_id(),
        ),
        half_life_seconds=half_life_of(config, checkpoint),
        min_segment_seconds=config.min_segment_seconds,
        silence_seconds=config.silence_seconds,
        idle_seconds=config.idle_seconds,
        forget_seconds=config.forget_seconds,
        order=OrderRules(
            lateness_us=round(1e6 * config.lateness_seconds),
            max_held_blocks=config.max_held_blocks,
            max_ahead_us=round(1e6 * config.max_ahead_seconds),
        ),
        denoiser=find_denoiser(config.denoise) if config.clean_to else None,
    )


def half_life_of(config: StreamConfig, checkpoint: Checkpoint) -> float | None:
    """Seconds after which what was heard counts half; None: it counts for ever."""
    if config.half_life_seconds is None:
        return checkpoint.front_end.window_seconds
    return config.half_life_seconds or None


def find_recogniser(model: str, option: str = "--model") -> Checkpoint:
    """The checkpoint of a recogniser, which was given as ``option``.

    Raises
    ------
    CheckpointError, FrontEndError
        If there is none of that name, or it labels whole windows only.
    """
    checkpoint = load_checkpoint(model, option=option)
    if checkpoint.model_type != SEQUENCE:
        raise CheckpointError(
            f"{option}={model}: {checkpoint.model_type} looks at whole windows and cannot follow a "
            "stream; train a recogniser by python -m pipeline.train --task=recognise"
        )
    if checkpoint.front_end.needs_enhancer:
        raise FrontEndError(
            f"{option}={model}: its front end denoises by another model, which streams do not; "
            "train it without"
        )
    return checkpoint
