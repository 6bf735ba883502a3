"""The labelling graph: which stage feeds which. No signal processing happens here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipeline.jobs import Job
from pipeline.options import LabelConfig
from transforms.books import CloseBooks
from transforms.decode import Decode
from transforms.denoise import Denoiser
from transforms.inference import CheckpointHandler, RunInference, make_handler
from transforms.mel import MelSpectrogram
from transforms.models.checkpoint import Checkpoint
from transforms.models.vit import Device, Precision
from transforms.preprocess import Preprocess
from transforms.read import ReadFiles
from transforms.records import PredictionRow, schema_of
from transforms.rollup import RollUp
from transforms.scores import LabelRule
from transforms.storage.dataset import Target
from transforms.storage.extras import EXTRAS, with_extras
from transforms.storage.known import KnownRows
from transforms.storage.reuse import copy_rows
from transforms.write import WriteToParquet


@dataclass(frozen=True, kw_only=True)
class LabelJob(Job):
    """A labelling job."""

    config: LabelConfig
    checkpoint: Checkpoint
    device: Device  # "auto" only where workers are not on this machine
    precision: Precision  # never "auto": one number type for all workers
    batch_size: int  # windows per call of the model
    denoiser: Denoiser | None = None  # the enhancer that the front end names

    @property
    def target(self) -> Target:
        """Where this run's rows go."""
        config = self.config
        return Target(config.output, self.provenance.run_id, config.format == "json")

    @property
    def predictions_schema(self) -> pa.Schema:
        """Of the predictions, the manifests' own columns included."""
        schema = schema_of(PredictionRow, labels=self.checkpoint.labels, extra=self.carried)
        return with_extras(schema, self.extras)

    @property
    def extras(self) -> frozenset[str]:
        """What the run was asked for beyond labels."""
        return frozenset(name for name in EXTRAS if getattr(self.config, name))

    @property
    def handler(self) -> CheckpointHandler:
        """What runs the model."""
        return make_handler(
            self.checkpoint,
            device=self.device,
            precision=self.precision,
            batch_size=self.batch_size,
            threads=self.threads,
            embeddings=self.config.embeddings,
        )

    @property
    def shared_model(self) -> dict[str, Any] | None:
        """Arguments of load_model; None where one process has the model for all."""
        return self.handler.model_settings if self.device == "cpu" else None

    @property
    def computing(self) -> dict[str, Any]:
        """Device, numbers, batches and whose the weights are."""
        several = self.config.runner == "DirectRunner" and self.config.workers > 1
        shared = "in one process for all" if self.handler.share_model_across_processes() else None
        return {
            "device": self.device,
            "precision": self.precision,
            "batch_size": self.batch_size,
            "weights": (shared or "shared") if several else "its own",
        }

    @property
    def recorded(self) -> dict[str, Any]:
        """The model and its front end."""
        front_end = self.checkpoint.front_end
        return {
            "model": {
                "folder": str(self.checkpoint.folder),
                "type": self.checkpoint.model_type,
                "fingerprint": self.provenance.model_fingerprint,
                "labels": list(self.checkpoint.labels),
                "unknown_threshold": self.checkpoint.unknown_threshold,
            },
            "front_end": {"fingerprint": front_end.fingerprint(), **dataclasses.asdict(front_end)},
        }

    def build(self, pipeline: beam.Pipeline) -> None:
        """See :func:`build_pipeline`."""
        build_pipeline(pipeline, self)

    @property
    def known(self) -> KnownRows | None:
        """Which rows of earlier runs make labelling needless."""
        config = self.config
        if config.relabel and not self.resumed_runs:
            return None
        return KnownRows(
            output=config.output,
            run_id=self.provenance.run_id,
            model_fingerprint=self.provenance.model_fingerprint,
            front_end_fingerprint=self.provenance.front_end_fingerprint,
            extras=self.extras,
            resumed_runs=self.resumed_runs,
            by_version=config.verify == "version",
            resumed_only=config.relabel,
        )


def build_pipeline(pipeline: beam.Pipeline, job: LabelJob) -> None:
    """Wire the stages; see the picture in README."""
    inputs = job.config.inputs
    read = (
        pipeline
        | "Inputs" >> beam.Create(list(inputs), reshuffle=False)
        | ReadFiles(
            job.config.root,
            job.known,
            job.journal,
            one_input=len(inputs) == 1,
            output=job.config.output,
        )
    )
    labelled = _label_windows(read["tracks"], job)
    rolled_up = labelled["predictions"] | RollUp(_label_rule(job), job.provenance)
    failures = {
        "ReadFiles": read["failures"],
        **labelled["failures"],
        "RollUp": rolled_up["failures"],
    }
    published = {
        "tracks": rolled_up["tracks"],
        "parts": rolled_up["parts"],
        "copies": labelled["copies"],
        **{f"failures/{stage}": failed for stage, failed in failures.items()},
    } | WriteToParquet(job.journal, job.target, job.predictions_schema, job.provenance)
    (read["counts"], labelled["counts"], published) | CloseBooks(job.books_path)


def _label_windows(tracks: beam.PCollection, job: LabelJob) -> dict:  # type: ignore[type-arg]
    """Decode to inference, fused: no shuffle and no state between these stages."""
    config, front_end = job.config, job.checkpoint.front_end
    decoded = tracks | Decode(
        front_end, config.min_seconds, job.limits, job.known, features=config.features
    )
    prepared = decoded["windows"] | Preprocess(front_end, job.denoiser)
    images = prepared["windows"] | MelSpectrogram(front_end)
    inferred = images["windows"] | RunInference(job.handler)
    return {
        "predictions": inferred["predictions"],
        "copies": decoded["known"] | "Copies" >> beam.Map(copy_rows, job.provenance),
        "counts": decoded["counts"],
        "failures": {
            "Decode": decoded["failures"],
            "Preprocess": prepared["failures"],
            "MelSpectrogram": images["failures"],
            "RunInference": inferred["failures"],
        },
    }


def _label_rule(job: LabelJob) -> LabelRule:
    return LabelRule(job.checkpoint.labels, job.checkpoint.unknown_threshold, job.config.top_k)
