"""What every row of a run says about where it comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Provenance:
    """Columns that are the same in all rows of a run."""

    run_id: str
    pipeline_version: str
    model_fingerprint: str
    front_end_fingerprint: str
