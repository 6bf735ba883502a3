"""What every row of a run says about where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Columns that are the same in all rows of a run."""

    run_id: str
    pipeline_version: str
    model_fingerprint: str  # of the weights, and of the precision where it changes scores
    front_end_fingerprint: str  # of its settings
