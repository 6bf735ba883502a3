"""What workers tell the process that answers: light, as it imports neither torch nor Beam."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.serving.answers import ServedModel
from transforms.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Announced:
    """What the service was asked for, as far as the process that answers needs to know it."""

    models: tuple[ServedModel, ...]  # the first one labels
    provenance: Provenance
    batch_size: int  # windows per call of the model
    prepared: bytes  # a pipeline.serving.prepared.Prepared, pickled, for the workers
