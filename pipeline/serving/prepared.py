"""What the service was asked for, looked up; for the processes that decode and compute."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.arithmetic import model_fingerprint, resolve_arithmetic
from pipeline.resources import choose_batch_size
from pipeline.run_id import new_run_id
from pipeline.serve_config import NONE, ServeConfig
from pipeline.serving.announced import Announced
from pipeline.serving.answers import ServedModel
from pipeline.stream_settings import find_recogniser
from transforms.audio.sandbox import DecoderLimits
from transforms.denoise import Denoiser, find_denoiser
from transforms.enhance_file import EnhanceSettings
from transforms.inference import CheckpointHandler, make_handler
from transforms.models.checkpoint import (
    Checkpoint,
    find_checkpoint,
    fingerprint_of,
    load_checkpoint,
    name_of,
)
from transforms.models.enhancer import load_enhancer
from transforms.models.front_end import FrontEnd
from transforms.models.vit import Device, Precision, gpu_bytes
from transforms.provenance import Provenance
from transforms.scores import LabelRule
from transforms.streaming.listening import ListenSettings


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that workers need to know; see :func:`prepare`."""

    checkpoint: Checkpoint
    device: Device
    precision: Precision
    batch_size: int  # windows per call of the model
    denoiser: Denoiser | None  # the enhancer that the front end names
    limits: DecoderLimits
    min_seconds: float
    audio_seconds: float  # longer files are refused
    features: bool
    embeddings: bool
    provenance: Provenance
    listen: ListenSettings | None  # None: no live streams
    enhance: EnhanceSettings | None  # None: nothing is enhanced

    @property
    def front_end(self) -> FrontEnd:
        """Of the model that labels."""
        return self.checkpoint.front_end

    @property
    def handler(self) -> CheckpointHandler:
        """What runs the model, as the batch pipeline does."""
        return make_handler(
            self.checkpoint,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            embeddings=self.embeddings,
        )


def prepare(config: ServeConfig) -> Prepared:
    """Look up and check everything that can be wrong with what was asked for.

    Raises
    ------
    UsageError
        In one line, what is wrong and what to do.
    """
    changes = dict(config.front_end_changes)
    if denoiser := find_denoiser(changes.get("denoise")):
        changes["denoise"] = denoiser.setting
    checkpoint = load_checkpoint(
        config.model, front_end_preset=config.front_end_preset, front_end_changes=changes
    )
    device, precision = resolve_arithmetic(checkpoint, config.device, config.precision)
    provenance = Provenance(
        run_id=new_run_id(),
        pipeline_version=__version__,
        model_fingerprint=model_fingerprint(checkpoint, precision),
        front_end_fingerprint=checkpoint.front_end.fingerprint(),
    )
    return Prepared(
        checkpoint=checkpoint,
        device=device,
        precision=precision,
        batch_size=config.batch_size or choose_batch_size(gpu_bytes(device)),
        denoiser=denoiser,
        limits=DecoderLimits(config.decode_timeout_seconds, config.decode_memory_mib << 20),
        min_seconds=config.min_seconds,
        audio_seconds=config.limits.audio_seconds,
        features=config.features,
        embeddings=config.embeddings,
        provenance=provenance,
        listen=_listening(config, provenance.run_id),
        enhance=_enhancing(config),
    )


def _listening(config: ServeConfig, run_id: str) -> ListenSettings | None:
    """How the microphone is heard: as a live stream, see docs/streaming.md."""
    if config.live_model == NONE:
        return None
    checkpoint = find_recogniser(config.live_model, option="--live_model")
    front_end = checkpoint.front_end
    return ListenSettings(
        model=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        front_end=front_end,
        rule=LabelRule(checkpoint.labels, checkpoint.unknown_threshold),
        provenance=Provenance(
            model_fingerprint=checkpoint.fingerprint,
            front_end_fingerprint=front_end.fingerprint(),
            pipeline_version=__version__,
            run_id=run_id,
        ),
        half_life_seconds=front_end.window_seconds,
    )


def _enhancing(config: ServeConfig) -> EnhanceSettings | None:
    if config.enhancer == NONE:
        return None
    folder = find_checkpoint(config.enhancer, enhancing=True, option="--enhancer")
    return EnhanceSettings(
        max_seconds=config.limits.audio_seconds,
        model=name_of(folder),
        model_fingerprint=fingerprint_of(folder),
        front_end=load_enhancer(str(folder)).front_end,
    )


def announce(prepared: Prepared) -> Announced:
    """What the process that answers needs to know of it."""
    checkpoint, provenance = prepared.checkpoint, prepared.provenance
    models = [
        ServedModel(
            name=Path(checkpoint.name).name,  # no folder of this machine
            task="label",
            model_fingerprint=provenance.model_fingerprint,
            front_end_fingerprint=provenance.front_end_fingerprint,
            labels=checkpoint.labels,
            unknown_threshold=checkpoint.unknown_threshold,
            sample_rate_hz=checkpoint.front_end.sample_rate_hz,
            window_seconds=checkpoint.front_end.window_seconds,
            precision=prepared.precision,
            device=prepared.device,
        )
    ]
    if (listen := prepared.listen) is not None:
        models.append(
            ServedModel(
                name=Path(listen.model).name,
                task="follow",
                model_fingerprint=listen.fingerprint,
                front_end_fingerprint=listen.front_end.fingerprint(),
                labels=listen.rule.labels,
                unknown_threshold=listen.rule.unknown_threshold,
                sample_rate_hz=listen.front_end.sample_rate_hz,
                window_seconds=listen.front_end.window_seconds,
                precision="float32",
                device="cpu",
            )
        )
    if (enhance := prepared.enhance) is not None and enhance.model is not None:
        models.append(
            ServedModel(
                name=enhance.model,
                task="enhance",
                model_fingerprint=enhance.model_fingerprint,
                front_end_fingerprint=enhance.fingerprint(),
            )
        )
    return Announced(
        models=tuple(models),
        provenance=provenance,
        batch_size=prepared.batch_size,
        prepared=pickle.dumps(prepared),
    )
