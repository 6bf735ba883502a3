"""The published 16-genre recipe as its users write it: librosa, then torch's resize."""

from __future__ import annotations

import librosa
import numpy as np
import numpy.typing as npt
import torch

SAMPLE_RATE_HZ = 22_050
IMAGE_SIZE = (224, 224)


def to_pixels(decibels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Decibels of shape (mels, frames), -80..0, to an image of three equal channels, -1..1."""
    image = torch.nn.functional.interpolate(
        torch.from_numpy(decibels)[None, None], size=IMAGE_SIZE, mode="bilinear", antialias=True
    )
    return (image[0] / 40 + 1).expand(3, -1, -1).numpy()


def load_image(path: str) -> npt.NDArray[np.float32]:
    """A whole track squeezed into one image, float32, (3, 224, 224), -1..1."""
    samples, rate_hz = librosa.load(path, sr=SAMPLE_RATE_HZ, mono=True)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate_hz, n_fft=2048, hop_length=512, n_mels=128, fmax=8000
    )
    return to_pixels(librosa.power_to_db(mel, ref=np.max))
