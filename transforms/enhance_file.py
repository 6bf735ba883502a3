"""Enhancing one file: settings, where the result lies, and the work itself; free of Beam.

A file is decoded twice: first to find its length, its DC offset and whatever is wrong with it,
before anything is written; then block by block through the enhancer into a draft, which becomes
the enhanced file at once when it is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from transforms.audio.readers import AudioInfo
from transforms.audio.sandbox import RemoteAudio, Sandbox
from transforms.errors import Reason, StageError, StorageError
from transforms.fetch import Fetched, fetched
from transforms.manifest import is_local
from transforms.models.enhancer import Enhancer, SpectrumFrontEnd, load_same_enhancer
from transforms.preprocess import check_samples
from transforms.records import FloatArray
from transforms.results import ENHANCED_AUDIO
from transforms.sound_file import Bits, Format, SoundWriter, check_fits
from transforms.stopwatch import StopWatch
from transforms.storage.durable import committed
from transforms.track_enhancer import make_enhancer

Method = Literal["model", "spectral_gate", "none"]
Reconstruct = Literal["phase", "griffin_lim"]

NO_MODEL = "none"
"""In place of a model's fingerprint where no model is asked."""

_RECIPE = 1  # to be raised when the same settings begin to give other samples
_STEM_BYTES = 80
_NOT_IN_NAMES = re.compile(r"[^\w.,()+&' -]+")


@dataclass(frozen=True, kw_only=True)
class EnhanceSettings:
    """All that the samples of an enhanced file depend on, but the recording."""

    method: Method = "model"
    reconstruct: Reconstruct = "phase"
    format: Format = "flac"
    bits: Bits = 24
    max_seconds: float = 86_400.0  # decoding stops there
    model: str | None = None  # a checkpoint's name or path; None unless the method is "model"
    model_fingerprint: str = NO_MODEL
    front_end: SpectrumFrontEnd | None = None  # the model's

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with every setting that can change a sample.

        The model has a fingerprint of its own.
        """
        settings = dataclasses.asdict(self)
        for name in ("model", "model_fingerprint"):
            del settings[name]
        canonical = json.dumps({**settings, "recipe": _RECIPE}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """Name of the folder of all files that are enhanced with these settings and model."""
        both = f"{self.fingerprint()} {self.model_fingerprint}"
        return f"{self.method}-{hashlib.sha256(both.encode()).hexdigest()[:16]}"

    def load(self) -> Enhancer:
        """The model, once in a process; one torch thread, for there is a process per core."""
        assert self.model is not None, "only the method model has one"
        return load_same_enhancer(self.model, self.model_fingerprint)


@dataclass(frozen=True)
class FirstPass:
    """What decoding finds out before anything is written."""

    info: AudioInfo
    frames: int
    dc_offset: npt.NDArray[np.float64]  # (channels,), the mean over the whole file


def enhanced_path(output: str, settings: EnhanceSettings, content_sha256: str, uri: str) -> str:
    """Where the enhanced sound of a content lies.

    ``OUTPUT/enhanced_audio/METHOD-SETTINGS/XX/STEM-CONTENT.EXT``: XX are the first two of the 32
    digits of the content's hash that make the name unique, whatever the stem.

    Parameters
    ----------
    output : str
        The run's output folder.
    settings : EnhanceSettings
    content_sha256 : str
    uri : str
        Of a file with that content, whose name makes the result's readable.
    """
    folder = os.path.abspath(output) if is_local(output) else output
    stem = os.path.splitext(uri.rstrip("/").rpartition("/")[2])[0]
    plain = _NOT_IN_NAMES.sub("_", stem).strip(". ")
    short = plain.encode("utf-8", "replace")[:_STEM_BYTES].decode("utf-8", "ignore").strip(". ")
    name = f"{short or 'track'}-{content_sha256[:32]}.{settings.format}"
    return f"{folder}/{ENHANCED_AUDIO}/{settings.folder}/{content_sha256[:2]}/{name}"


def look_through(audio: RemoteAudio) -> FirstPass:
    """Decode a file to its end: length, DC offset, and whatever is wrong with it.

    Raises
    ------
    StageError
        If it cannot be decoded, or holds no sound.
    """
    sums, frames = np.zeros(audio.info.channels), 0
    for block in audio.blocks():
        check_samples(block)
        sums += block.sum(axis=0, dtype=np.float64)
        frames += len(block)
    if not frames:
        raise StageError(Reason.TOO_SHORT, "no sound at all")
    return FirstPass(audio.info, frames, sums / frames)


@dataclass
class Levels:
    """Root mean squares over all channels, before and after."""

    samples: int = 0
    before: float = 0.0  # sums of squares
    after: float = 0.0

    def rms(self) -> dict[str, float]:
        """As the columns of a row; full scale is 1."""
        return {
            "rms_before": float(np.sqrt(self.before / self.samples)),
            "rms_after": float(np.sqrt(self.after / self.samples)),
        }


def _energy(samples: FloatArray) -> float:
    return float(np.square(samples, dtype=np.float64).sum())


def enhance_audio(
    audio: RemoteAudio,
    first: FirstPass,
    settings: EnhanceSettings,
    writer: SoundWriter,
    timed: StopWatch,
) -> Levels:
    """Decode a file the second time, through the enhancer into a writer.

    Raises
    ------
    StageError
        If it is another file by now, or the enhancer answers with what is no sound.
    """
    channels, frames, levels = first.info.channels, 0, Levels()
    enhancer = make_enhancer(
        settings.method, settings.reconstruct, first.info.sample_rate_hz, channels, settings.load
    )

    def write(samples: FloatArray) -> None:
        if not np.isfinite(samples).all():
            raise StageError(Reason.INVALID_SAMPLES, "the enhanced sound is not of numbers")
        levels.after += _energy(samples)
        with timed("encode"):
            writer.write(samples)

    for block in audio.blocks():
        if block.shape[1] != channels or frames + len(block) > first.frames:
            break
        frames += len(block)
        centred = (block - first.dc_offset).astype(np.float32)
        levels.before += _energy(centred)
        with timed("enhance"):
            enhanced = enhancer.step(centred)
        write(enhanced)
    if frames != first.frames:
        raise StageError(Reason.UNREADABLE, "the file changed while it was being enhanced")
    with timed("enhance"):
        enhanced = enhancer.finish()
    write(enhanced)
    levels.samples = frames * channels
    return levels


@dataclass(frozen=True)
class Workplace:
    """Where files are decoded and written."""

    output: str  # the run's output folder
    drafts: str | None  # folder for what is being written; None: beside the results
    sandbox: Sandbox
    timed: StopWatch

    @contextlib.contextmanager
    def opened(self, source: Fetched, settings: EnhanceSettings) -> Iterator[RemoteAudio]:
        """The file with all its channels; what decoding took is counted."""
        with self.sandbox.open(source.path, max_seconds=settings.max_seconds) as audio:
            try:
                yield audio
            finally:
                self.timed.update(audio.spent)


def enhance_file(
    uri: str, source: Fetched, settings: EnhanceSettings, workplace: Workplace
) -> dict[str, Any]:
    """Enhance one file.

    Parameters
    ----------
    uri : str
        For the name of the result.
    source : Fetched
        The file's bytes.
    settings : EnhanceSettings
    workplace : Workplace

    Returns
    -------
    dict
        EnhancedRow's columns but those of the listing and the run.

    Raises
    ------
    StageError
        If the file cannot be decoded or enhanced; nothing of it is left.
    StorageError
        If the result cannot be written.
    """
    with workplace.opened(source, settings) as audio:
        first = look_through(audio)
    info = first.info
    check_fits(settings.format, info.sample_rate_hz, info.channels)
    path = enhanced_path(workplace.output, settings, source.sha256, uri)
    with committed(path, workplace.drafts) as draft:
        with (
            SoundWriter(draft, settings.format, settings.bits, frames=first.frames,
                        sample_rate_hz=info.sample_rate_hz, channels=info.channels) as writer,
            workplace.opened(source, settings) as audio,
        ):  # fmt: skip
            levels = enhance_audio(audio, first, settings, writer, workplace.timed)
        written = _of_draft(draft)
    return {
        "content_sha256": source.sha256,
        "size_bytes": source.size_bytes,
        "output": path,
        "output_sha256": written.sha256,
        "output_size_bytes": written.size_bytes,
        "duration_s": first.frames / info.sample_rate_hz,
        **{name: getattr(info, name) for name in ("sample_rate_hz", "channels", "container",
                                                  "codec", "decoder")},
        "decode_warnings": list(audio.warnings),
        "dc_offset": first.dc_offset.tolist(),
        **levels.rms(),
        "clipped_samples": writer.clipped,
        "method": settings.method,
        "reconstruct": settings.reconstruct,
    }  # fmt: skip


def _of_draft(draft: Path) -> Fetched:
    try:
        with fetched(str(draft)) as written:
            return written
    except StageError as error:  # the run's own file is no input
        raise StorageError(f"{draft}: {error}") from error
