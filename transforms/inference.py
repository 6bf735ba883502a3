"""RunInference: images to log-probabilities, in batches of many tracks' windows.

A row's scores do not depend on its neighbours or on its place in the batch: every batch of a ViT
has one shape, for which the last one is padded, and a recogniser computes each window alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from apache_beam.metrics import Metrics
from apache_beam.ml.inference import base as beam_inference

from transforms.errors import Reason, StageError
from transforms.models.checkpoint import VIT, Checkpoint
from transforms.models.interface import ImageArray, IntArray, Model, ModelOutput
from transforms.models.loading import load_model
from transforms.models.recogniser import frames_of
from transforms.models.vit import Device, Precision, use_threads
from transforms.records import FloatArray, LogMelWindow, WindowPrediction
from transforms.stage_metrics import FAILURES, PROFILE, StageMeter

STAGE = "RunInference"
BATCH_WAIT = "batch_wait_microseconds"  # of a window on average, from its image to its batch
BATCH_ROWS = "batch_rows"  # computed, those that fill up a batch included


def pad_batch(
    images: Sequence[FloatArray], batch_size: int, dtype: type[np.floating[Any]] = np.float32
) -> npt.NDArray[Any]:
    """Stack images and fill up with zeros to (batch_size, height, width)."""
    batch = np.zeros((batch_size, *images[0].shape), dtype=dtype)
    np.stack(images, out=batch[: len(images)], casting="same_kind")
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
    windows: Sequence[LogMelWindow], output: ModelOutput, *, embeddings: bool
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


class LoadingModel:
    """A model that is loaded in a thread, while the first tracks are decoded.

    Parameters
    ----------
    load : callable
        What it raises, the first prediction does.
    """

    def __init__(self, load: Callable[[], Model]) -> None:
        executor = ThreadPoolExecutor(1, "load-model")
        self._loading = executor.submit(load)
        executor.shutdown(wait=False)

    def predict(self, images: ImageArray, content_frames: IntArray) -> ModelOutput:
        """As the model's own, once that is there."""
        return self._loading.result().predict(images, content_frames)


class CheckpointHandler(
    beam_inference.ModelHandler[LogMelWindow, WindowPrediction, LoadingModel]  # type: ignore[misc]
):
    """Beam's ModelHandler over a checkpoint: what all backends have in common.

    Parameters
    ----------
    checkpoint : Checkpoint
    batch_size : int
        Windows per call of the model at most.
    threads : int, optional
        PyTorch's CPU threads in each worker process; None leaves its default.
    embeddings : bool
        Whether predictions carry their windows' embeddings.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int = 8,
        threads: int | None = None,
        embeddings: bool = False,
    ) -> None:
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._checkpoint = checkpoint
        self._batch_size = batch_size
        self._threads = threads
        self._embeddings = embeddings
        self._waits = Metrics.distribution(PROFILE, BATCH_WAIT)
        self._rows = Metrics.counter(PROFILE, BATCH_ROWS)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) of the images that the model takes."""
        front_end = self._checkpoint.front_end
        return front_end.image_height, front_end.image_width

    @property
    def model_settings(self) -> dict[str, Any]:
        """The arguments of transforms.models.loading.load_model."""
        return {
            "kind": self._checkpoint.model_type,
            "model": self._checkpoint.name,
            "fingerprint": self._checkpoint.fingerprint,
        }

    def load_model(self) -> LoadingModel:
        """Begin to load the weights; called once per worker process."""
        if self._threads is not None:
            use_threads(self._threads)
        return LoadingModel(lambda: load_model(**self.model_settings))

    def run_inference(
        self,
        batch: Sequence[LogMelWindow],
        model: Model,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[WindowPrediction]:
        """Predictions of at most ``batch_size`` windows, in their order."""
        waited_s = time.monotonic() - sum(window.made_s for window in batch) / len(batch)
        self._waits.update(round(1e6 * waited_s))
        rows = self._rows_for(len(batch))
        self._rows.inc(rows)
        images = pad_batch([w.image for w in batch], rows, self._image_type)
        content_frames = np.zeros(rows, dtype=np.int64)
        front_end = self._checkpoint.front_end
        content_frames[: len(batch)] = [frames_of(w.content_s, front_end) for w in batch]
        output = model.predict(images, content_frames)
        return to_predictions(batch, output, embeddings=self._embeddings)

    @property
    def _image_type(self) -> type[np.floating[Any]]:
        return np.float32

    def _rows_for(self, windows: int) -> int:
        """Rows of the batch that so many windows are computed in."""
        return windows

    def get_num_bytes(self, batch: Sequence[LogMelWindow]) -> int:
        """Bytes of the images (Beam's default pickles the batch to find out)."""
        return sum(window.image.nbytes for window in batch)


class ViTModelHandler(CheckpointHandler):
    """Beam's ModelHandler over the ViT backend.

    Parameters
    ----------
    checkpoint : Checkpoint
    batch_size : int
        Windows per call of the model; every call has exactly this shape.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
    threads, embeddings
        As for :class:`CheckpointHandler`.
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
        super().__init__(
            checkpoint, batch_size=batch_size, threads=threads, embeddings=embeddings
        )
        self._device = device
        self._precision = precision

    @property
    def model_settings(self) -> dict[str, Any]:
        """The arguments of transforms.models.loading.load_model."""
        return super().model_settings | {
            "device": self._device,
            "precision": self._precision,
            "batch_size": self._batch_size,
        }

    @property
    def _image_type(self) -> type[np.floating[Any]]:
        """Half the bytes on the way to a GPU, whose products are no finer."""
        return np.float16 if self.share_model_across_processes() else np.float32

    def _rows_for(self, windows: int) -> int:
        return self._batch_size

    def share_model_across_processes(self) -> bool:
        """Whether one process has the model for all workers of a machine: the one with a GPU.

        On a CPU every worker computes for itself, on weights that it shares with the others.
        """
        return self._device == "cuda"

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's own inference metrics."""
        return "BeamML_ViT"


class SequenceModelHandler(CheckpointHandler):
    """Beam's ModelHandler over the recogniser backend, on the CPU and in float32."""

    def get_metrics_namespace(self) -> str:
        """The namespace of Beam's own inference metrics."""
        return "BeamML_Sequence"


def make_handler(
    checkpoint: Checkpoint, *, device: Device, precision: Precision, **common: Any
) -> CheckpointHandler:
    """The handler of a checkpoint's kind.

    Parameters
    ----------
    checkpoint : Checkpoint
    device, precision
        Of a ViT; a recogniser has one of each.
    **common
        As for :class:`CheckpointHandler`.
    """
    if checkpoint.model_type == VIT:
        return ViTModelHandler(checkpoint, device=device, precision=precision, **common)
    return SequenceModelHandler(checkpoint, **common)


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
    handler : CheckpointHandler
        As :func:`make_handler` chooses it.
    """

    handler: CheckpointHandler

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
