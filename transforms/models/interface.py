"""What a model is to the stage that runs it: numpy in, dataclass out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
ImageArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ModelOutput:
    """What a model says of a batch of images."""

    log_probs: FloatArray  # (images, labels), natural logarithms, normalised
    embeddings: FloatArray  # (images, embedding size), what the classifier sees


class Model(Protocol):
    """A loaded model that labels images."""

    def predict(self, images: ImageArray, content_frames: IntArray) -> ModelOutput:
        """Log-probabilities and embeddings of a batch.

        Parameters
        ----------
        images : float32 or float16, shape (images, height, width)
            As the model's front end makes them.
        content_frames : int, shape (images,)
            Leading frames of each image that hold sound; 0 for an image that only fills up the
            batch, of whose answer nobody will know.
        """
