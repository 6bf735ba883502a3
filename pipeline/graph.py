"""The labelling graph: which stage feeds which. No signal processing happens here."""

from __future__ import annotations

from dataclasses import dataclass

import apache_beam as beam
import pyarrow as pa

from pipeline.options import LabelConfig
from transforms.books import CloseBooks
from transforms.decode import Decode
from transforms.inference import RunInference, ViTModelHandler
from transforms.journal import Journal, Kind
from transforms.mel import MelSpectrogram
from transforms.models.checkpoint import Checkpoint
from transforms.models.vit import Device, Precision
from transforms.preprocess import Preprocess
from transforms.read import ReadFiles
from transforms.records import FailureRow, PredictionRow, WindowRow, schema_of
from transforms.rollup import LabelRule, Provenance, RollUp
from transforms.write import WriteToJsonLines, WriteToParquet


@dataclass(frozen=True)
class LabelJob:
    """A configuration with everything looked up that the graph needs."""

    config: LabelConfig
    checkpoint: Checkpoint
    carried: pa.Schema  # the manifests' own columns
    provenance: Provenance
    device: Device  # "auto" only where workers are not on this machine
    precision: Precision  # never "auto": one number type for all workers
    threads: int  # of PyTorch, in each worker process

    @property
    def journal(self) -> str:
        """Folder of this run's journal."""
        return f"{self.config.output}/journal/{self.provenance.run_id}"

    @property
    def books_path(self) -> str:
        """Where the graph writes the reconciled counts."""
        return f"{self.journal}/books.json"


def build_pipeline(pipeline: beam.Pipeline, job: LabelJob) -> None:
    """Wire the stages; see the picture in README."""
    config = job.config
    read = (
        pipeline
        | "Inputs" >> beam.Create(list(config.inputs), reshuffle=False)
        | ReadFiles(root=config.root)
    )
    results = _label_windows(read["tracks"], job)
    failures = {"ReadFiles": read["failures"], **results["failures"]}
    durable = [
        collection | f"Journal/{stage}" >> Journal(job.journal, _journal_kind(stage))
        for stage, collection in failures.items()
    ]
    rows = {
        "tracks": read["tracks"],
        "facts": results["facts"] | "Journal/tracks" >> Journal(job.journal, "tracks"),
        "predictions": results["predictions"]
        | "Journal/windows" >> Journal(job.journal, "windows"),
        "failures": durable | "Failures" >> beam.Flatten(),
    } | RollUp(_label_rule(job), job.provenance)
    _write(rows, job)
    {
        "tracks": read["tracks"],
        "read_failures": read["failures"],
        "predictions": rows["predictions"],
        "failures": rows["failures"],
    } | CloseBooks(job.books_path)


def _journal_kind(stage: str) -> Kind:
    """Later stages fail window by window, of tracks that the journal counts by their facts."""
    return "failures" if stage in ("ReadFiles", "Decode") else "window_failures"


def _label_windows(tracks: beam.PCollection, job: LabelJob) -> dict:  # type: ignore[type-arg]
    """Decode to inference, fused: no shuffle and no state between these stages."""
    config, front_end = job.config, job.checkpoint.front_end
    handler = ViTModelHandler(
        job.checkpoint,
        batch_size=config.batch_size,
        device=job.device,
        precision=job.precision,
        threads=job.threads,
        embeddings=config.embeddings,
    )
    decoded = tracks | Decode(front_end, min_seconds=config.min_seconds)
    prepared = decoded["windows"] | Preprocess(front_end)
    images = prepared["windows"] | MelSpectrogram(front_end)
    inferred = images["windows"] | RunInference(handler)
    return {
        "facts": decoded["facts"],
        "predictions": inferred["predictions"],
        "failures": {
            "Decode": decoded["failures"],
            "Preprocess": prepared["failures"],
            "MelSpectrogram": images["failures"],
            "RunInference": inferred["failures"],
        },
    }


def _label_rule(job: LabelJob) -> LabelRule:
    return LabelRule(job.checkpoint.labels, job.checkpoint.unknown_threshold, job.config.top_k)


def _write(rows: beam.pvalue.DoOutputsTuple, job: LabelJob) -> None:
    output, run_id = job.config.output, job.provenance.run_id
    labels = job.checkpoint.labels
    schemas = {
        "predictions": schema_of(PredictionRow, labels=labels, extra=job.carried),
        "windows": schema_of(WindowRow, labels=labels),
        "failures": schema_of(FailureRow),
    }
    for name, schema in schemas.items():
        rows[name] | f"WriteToParquet/{name}" >> WriteToParquet(f"{output}/{name}", run_id, schema)
    if job.config.format == "json":
        rows["predictions"] | WriteToJsonLines(f"{output}/json", run_id, schemas["predictions"])
