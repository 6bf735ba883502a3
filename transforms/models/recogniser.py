"""The recogniser backend: a sequence model that labels windows, on the CPU and in float32.

It is causal, so its label of a window is the running label after the frames that hold sound; the
zeros that fill up a short window are never read. torch is imported on loading.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transforms.errors import CheckpointError, FrontEndError
from transforms.models.checkpoint import CONFIG_FILE, SEQUENCE, find_same, read_config
from transforms.models.front_end import FrontEnd
from transforms.models.interface import FloatArray, ImageArray, IntArray, ModelOutput
from transforms.models.sequence import SequenceSettings, load_weights, settings_of
from transforms.models.vit import use_threads

_LOOKS_AHEAD = {"remove_dc": False, "normalize_peak": False, "trim_silence_db": None}


def full_window_frames(front_end: FrontEnd) -> int:
    """Spectral frames of one full window; they are centred, the first one on its first sample."""
    return 1 + front_end.window_samples // front_end.hop_length


def frames_of(content_s: float, front_end: FrontEnd) -> int:
    """Frames of a window that hold sound, from 1 to the image's width.

    Parameters
    ----------
    content_s : float
        Seconds of sound in front of the zeros that fill up the window. Of digital silence, 0, it
        is the first frame: such a window has no weight in its track.
    front_end : FrontEnd
    """
    samples = round(content_s * front_end.sample_rate_hz)
    return min(1 + samples // front_end.hop_length, front_end.image_width)


def check_recogniser(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError unless a sequence model's config.json is that of a recogniser."""
    settings, path = settings_of(config), folder / CONFIG_FILE
    if settings.head != "recognition":
        raise CheckpointError(
            f"{path}: this model enhances, it does not label: give it to python -m "
            f"pipeline.enhance, or as --denoise={folder}"
        )
    if not isinstance(labels := config.get("id2label"), dict) or len(labels) != settings.outputs:
        raise CheckpointError(
            f"{path}: id2label must name the {settings.outputs} outputs of the model"
        )


def recogniser_front_end(
    folder: Path, config: Mapping[str, Any], stated: FrontEnd, changes: Mapping[str, Any]
) -> FrontEnd:
    """The front end of a recogniser with the caller's changes to it.

    What the checkpoint states must be causal: a stream has no whole window to look at. What a
    caller asks for windows of files is the caller's choice. With another length of the windows
    the images are as wide as that is in frames.

    Raises
    ------
    FrontEndError
        If the checkpoint's own needs the whole window, or the windows differ in length.
    CheckpointError
        If it makes other frames than the model takes.
    """
    _check_causal(folder, stated)
    _check_frames(folder, settings_of(config), stated)
    front_end = stated.changed(**changes)
    if front_end.windows == "whole":
        raise FrontEndError(
            "--windows=whole: a recogniser takes windows of one length; use --windows=all, with "
            "--window_seconds up to 1800"
        )
    return front_end.changed(image_width=full_window_frames(front_end))


def suits_recogniser(front_end: FrontEnd) -> bool:
    """Whether a recogniser can be trained on a front end: causal, and its images are its frames."""
    frames = front_end.n_mels, full_window_frames(front_end)
    resized = frames != (front_end.image_height, front_end.image_width)
    return not resized and not _looking_ahead(front_end)


def _looking_ahead(front_end: FrontEnd) -> list[str]:
    """Settings that need the whole window."""
    wrong = [name for name, value in _LOOKS_AHEAD.items() if getattr(front_end, name) != value]
    wrong += ["denoise"] if front_end.denoise == "spectral_gate" else []
    return wrong + (["reference"] if front_end.reference != "full_scale" else [])


def _check_causal(folder: Path, front_end: FrontEnd) -> None:
    if wrong := _looking_ahead(front_end):
        told = ", ".join(f"{name} is {getattr(front_end, name)!r}" for name in wrong)
        raise FrontEndError(
            f"{folder}: a recogniser knows nothing of what comes later, its front end looks at "
            f"the whole window: {told}"
        )


def _check_frames(folder: Path, settings: SequenceSettings, front_end: FrontEnd) -> None:
    if settings.inputs != front_end.n_mels:
        raise CheckpointError(
            f"{folder}: the model takes frames of {settings.inputs} values, its front end makes "
            f"{front_end.n_mels}; one of the two files belongs to another model"
        )
    wants = front_end.n_mels, full_window_frames(front_end)
    if wants != (has := (front_end.image_height, front_end.image_width)):
        raise CheckpointError(
            f"{folder}: a recogniser's images are its frames, (n_mels, frames of a window) = "
            f"{wants}; its front end resizes them to {has}"
        )


@functools.lru_cache(maxsize=1)
def load_recogniser(model: str, fingerprint: str) -> Recogniser:
    """Load a recogniser, once in a process and those that are forked from it.

    Parameters
    ----------
    model : str
        A checkpoint's name or path.
    fingerprint : str
        Of the checkpoint: another one there is refused.

    Raises
    ------
    WorkerError
        If that checkpoint is not on this machine.
    CheckpointError
        As :class:`Recogniser`.
    """
    return Recogniser(find_same(model, fingerprint))


class Recogniser:
    """A sequence model's checkpoint of head recognition, for inference.

    Parameters
    ----------
    folder : Path
        Checkpoint with config.json and model.safetensors.

    Raises
    ------
    CheckpointError
        If it is no recogniser, or the weights do not fit the configuration.
    """

    def __init__(self, folder: Path) -> None:
        config = read_config(folder, (SEQUENCE,))
        check_recogniser(folder, config)
        self._settings = settings_of(config)
        self._network = load_weights(folder, self._settings).eval()

    def predict(self, images: ImageArray, content_frames: IntArray) -> ModelOutput:
        """Log-probabilities and embeddings of a batch.

        Each image is computed alone: in a product of several rows a row's last bits depend on its
        place, and the sums over a window's frames carry them on. It costs less than half the
        speed.

        Parameters
        ----------
        images : float32, shape (images, inputs, frames)
        content_frames : int, shape (images,)
            Frames that are read; with 0 the answer is 0.

        Returns
        -------
        ModelOutput
            The running label after the frames that are read, and the weighted mean of the hidden
            vectors by which it is chosen.
        """
        use_threads(1)  # here: it holds for the thread that calls it, and more round differently
        log_probs = np.zeros((len(images), self._settings.outputs), dtype=np.float32)
        embeddings = np.zeros((len(images), self._settings.hidden_size), dtype=np.float32)
        for row, frames in enumerate(content_frames):
            if frames:
                log_probs[row], embeddings[row] = self._answer(images[row, :, :frames])
        return ModelOutput(log_probs, embeddings)

    def _answer(self, image: ImageArray) -> tuple[FloatArray, FloatArray]:
        import torch

        # A copy: in memory of torch's own, which lies alike for all.
        frames = torch.empty((1, image.shape[1], image.shape[0]))
        frames[0] = torch.from_numpy(image).T
        with torch.inference_mode():
            log_probs, state = self._network(frames)
            evidence = state["evidence"][0]
            pooled = evidence[:-1] / evidence[-1]
            return log_probs[0, -1].float().numpy(), pooled.float().numpy()
