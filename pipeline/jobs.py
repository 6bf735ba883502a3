"""What every batch job is to the machinery that runs it: labelling and enhancing are two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import apache_beam as beam
import pyarrow as pa

from pipeline.profile import PARTS
from transforms.audio.sandbox import DecoderLimits
from transforms.provenance import Provenance
from transforms.results import LABELS, Results


class RunnerConfig(Protocol):
    """Where a job runs."""

    @property
    def runner(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def beam_args(self) -> tuple[str, ...]: ...


class JobConfig(RunnerConfig, Protocol):
    """What all jobs are asked; a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def output(self) -> str: ...
    @property
    def root(self) -> str | None: ...
    @property
    def format(self) -> str: ...
    @property
    def max_failure_rate(self) -> float: ...
    @property
    def profile(self) -> bool: ...
    @property
    def progress(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """A configuration with everything looked up that the graph needs."""

    config: JobConfig
    carried: pa.Schema  # the manifests' own columns
    provenance: Provenance
    threads: int  # of PyTorch, in each worker process
    limits: DecoderLimits  # of the decoding of one file
    resumed_runs: tuple[str, ...] = ()  # interrupted ones that this one goes on with

    results: ClassVar[Results] = LABELS
    profile_parts: ClassVar[dict[str, str]] = PARTS  # what the profile tells apart

    @property
    def journal(self) -> str:
        """Folder of this run's journal."""
        return f"{self.config.output}/journal/{self.provenance.run_id}"

    @property
    def books_path(self) -> str:
        """Where the graph writes the reconciled counts."""
        return f"{self.journal}/books.json"

    @property
    @abstractmethod
    def computing(self) -> dict[str, Any]:
        """What the model computes on and how, for the run's record; ``device`` at least."""

    @property
    @abstractmethod
    def recorded(self) -> dict[str, Any]:
        """What else the run's record says of this kind of job."""

    @property
    def shared_model(self) -> dict[str, Any] | None:
        """Arguments of transforms.models.loading.load_model, for workers that share its weights."""
        return None

    @abstractmethod
    def build(self, pipeline: beam.Pipeline) -> None:
        """Add the job's graph to a pipeline."""
