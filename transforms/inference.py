"""RunInference: images to log-probabilities, in batches of many tracks' windows.

Every batch has one shape: the last one is padded. With a fixed shape a row's scores do not
depend on its neighbours or on its place in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference import base as beam_inference

from transforms.errors import Reason, StageError
from transforms.models.checkpoint import Checkpoint
from transforms.models.vit import Device, Precision, ViT, ViTOutput
from transforms.records import FloatArray, LogMelWindow, WindowPrediction
from transforms.stage_metrics import FAILURES, StageMeter

STAGE = "RunInference"


def pad_batch(images: Sequence[FloatArray], batch_size: int) -> FloatArray:
    """Stack images and fill up with zeros to float32 (batch_size, height, width)."""
    batch = np.zeros((batch_size, *images[0].shape), dtype=np.float32)
    np.stack(images, out=batch[: len(images)])
    return batch


def check_image(image: FloatArray, shape: tuple[int, int]) -> None:
    """Raise StageError unless ``image`` has the model's shape and is finite."""
    if image.shape != shape:
        raise StageError(
            Reason.INVALID_IMAGE, f"the model takes images of {shape}, got {image.shape}"
        )
    if not np.isfinite(image).all():
        raise StageError(Reason.INVALID_IMAGE, "an image holds NaN or infinite values")


def check_scores(prediction: WindowPrediction) -> None:
    """Raise StageError if the model answered with NaN."""
    if np.isnan(prediction.log_probs).any():
        raise StageError(Reason.INVALID_SCORES, "the model's scores are not numbers")


def to_predictions(
    windows: Sequence[LogMelWindow], output: ViTOutput, *, embeddings: bool
) -> Iterator[WindowPrediction]:
    """One prediction per window; the rows that padded the batch are dropped."""
    for row, window in enumerate(windows):
        yield WindowPrediction(
            window.track,
            window.window_index,
            window.start_s,
            window.end_s,
            window.content_s,
            output.log_probs[row].copy(),
            output.embeddings[row].copy() if embeddings else None,
            window.facts,
        )


class ViTModelHandler(
    beam_inference.ModelHandler[LogMelWindow, WindowPrediction, ViT]  # type: ignore[misc]
):
    """Beam's ModelHandler over the ViT backend.

    Parameters
    ----------
    checkpoint : Checkpoint
    batch_size : int
        Windows per call of the model; every call has exactly this shape.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
    threads : int, optional
        PyTorch's CPU threads in each worker process; None leaves its default.
    embeddings : bool
        Whether predictions carry the class token's embedding.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int = 8,
        device: Device = "auto",
        precision: Precision = "auto",
        threads: int | None = None,
        embeddings: bool = False,
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._checkpoint = checkpoint
        self._batch_size = batch_size
        self._device = device
        self._precision = precision
        self._threads = threads
        self._embeddings = embeddings

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images that the model takes."""
        front_end = self._checkpoint.front_end
        return front_end.image_height, front_end.image_width

    def load_model(self) -> ViT:
        """Load the weights; called once per worker process."""
        return ViT(
            self._checkpoint.folder,
            device=self._device,
            precision=self._precision,
            threads=self._threads,
            batch_size=self._batch_size,
        )

    def run_inference(
        self,
        batch: Sequence[LogMelWindow],
        model: ViT,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[WindowPrediction]:
        """Predictions of at most ``batch_size`` windows, in their order."""
        images = pad_batch([window.image for window in batch], self._batch_size)
        return to_predictions(batch, model.predict(images), embeddings=self._embeddings)

    def get_num_bytes(self, batch: Sequence[LogMelWindow]) -> int:
        """Bytes of the images (Beam's default pickles the batch to find out)."""
        return sum(window.image.nbytes for window in batch)

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's own inference metrics."""
        return "BeamML_ViT"


class _CheckDoFn(beam.DoFn):  # type: ignore[misc]
    """Let images through that the model takes: one bad image would fail its whole batch."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._meter = StageMeter(STAGE)

    def process(self, window: LogMelWindow) -> Iterator[Any]:
        yield from self._meter.run(window.track, lambda: self._checked(window))

    def _checked(self, window: LogMelWindow) -> list[LogMelWindow]:
        check_image(window.image, self._shape)
        return [window]


class _CheckScoresDoFn(beam.DoFn):  # type: ignore[misc]
    def __init__(self) -> None:
        self._meter = StageMeter(f"{STAGE}/scores")

    def process(self, prediction: WindowPrediction) -> Iterator[Any]:
        yield from self._meter.run(prediction.track, lambda: self._checked(prediction))

    def _checked(self, prediction: WindowPrediction) -> list[WindowPrediction]:
        check_scores(prediction)
        return [prediction]


@dataclass
class RunInference(beam.PTransform):  # type: ignore[misc]
    """PCollection[LogMelWindow] to ``["predictions"]`` and ``["failures"]``.

    Parameters
    ----------
    handler : ViTModelHandler
    """

    handler: ViTModelHandler

    def expand(self, windows: beam.PCollection) -> dict[str, beam.PCollection]:
        checked = windows | "CheckImages" >> beam.ParDo(
            _CheckDoFn(self.handler.image_shape)
        ).with_outputs(FAILURES, main="windows")
        scored = (
            checked["windows"]
            | "Predict" >> beam_inference.RunInference(self.handler)
            | "CheckScores" >> beam.ParDo(_CheckScoresDoFn()).with_outputs(FAILURES, main="kept")
        )
        failures = (checked[FAILURES], scored[FAILURES]) | beam.Flatten()
        return {"predictions": scored["kept"], FAILURES: failures}
