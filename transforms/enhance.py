"""Enhance: tracks to enhanced files, and one row of facts for each listing.

Each distinct content is enhanced once, however many files hold it; all their rows name the one
enhanced file (transforms.enhance_file).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam import pvalue

from transforms.audio.sandbox import DecoderLimits
from transforms.contents import COUNTS, KNOWN, ContentDoFn
from transforms.enhance_file import EnhanceSettings, Workplace, enhance_file
from transforms.fetch import Fetched
from transforms.models.vit import use_threads
from transforms.provenance import Provenance
from transforms.records import LISTING_COLUMN, Track, row_dict
from transforms.results import ENHANCED, EnhancedRow
from transforms.stage_metrics import FAILURES
from transforms.storage.known import KnownRows

ROWS = "rows"


@dataclass(frozen=True)
class EnhancedTrack:
    """One content that is enhanced, with every file that holds it."""

    track: Track
    facts: dict[str, Any]  # EnhancedRow's columns but those of the listing and the run


def enhanced_rows(enhanced: EnhancedTrack, provenance: Provenance) -> list[dict[str, Any]]:
    """The journal's rows of an enhanced content: one for each listing of each file with it."""
    now = dt.datetime.now(dt.timezone.utc)
    rows = []
    for track in enhanced.track.members:
        for number, listing in enumerate(track.listings):
            row = EnhancedRow(
                **enhanced.facts,
                uri=track.uri,
                track_id=listing.track_id,
                modified_at=track.modified_at,
                enhanced_at=now,
                **row_dict(provenance),
            )
            rows.append({**row_dict(row), **listing.columns, LISTING_COLUMN: number})
    return rows


class _EnhanceFn(ContentDoFn):
    results = ENHANCED

    def __init__(
        self,
        settings: EnhanceSettings,
        output: str,
        drafts: str | None,
        limits: DecoderLimits,
        known: KnownRows | None,
    ) -> None:
        super().__init__(limits, known)
        self._settings = settings
        self._output = output
        self._drafts = drafts

    def setup(self) -> None:
        super().setup()
        if self._settings.method == "model":
            use_threads(1)  # there is a worker per core, and more threads add up in another order
            self._settings.load()

    def work(self, track: Track, source: Fetched) -> Iterator[EnhancedTrack]:
        workplace = Workplace(self._output, self._drafts, self._sandbox, self._meter.timed)
        facts = enhance_file(track.uri, source, self._settings, workplace)
        self.count_audio(facts["duration_s"])
        yield EnhancedTrack(track, facts)


@dataclass
class Enhance(beam.PTransform):  # type: ignore[misc]
    """``PCollection[Track]`` to enhanced files, rows, failures, known contents and counts.

    Parameters
    ----------
    settings : EnhanceSettings
    output : str
        The run's output folder, under which the enhanced files come to lie (:func:`enhanced_path`).
    drafts : str, optional
        Folder of the same file system for what is being written; beside the results when None.
    limits : DecoderLimits
        What the decoding of one file may cost.
    known : KnownRows, optional
        What earlier runs have enhanced.

    Returns
    -------
    rows : PCollection[EnhancedTrack]
        The main output.
    failures : PCollection[Failure]
    known : PCollection[KnownContent]
        Tracks whose bytes have a row under another uri.
    counts : PCollection[((outcome, kind), int)]
        Listings skipped, see transforms.books.
    """

    settings: EnhanceSettings
    output: str
    drafts: str | None = None
    limits: DecoderLimits = dataclasses.field(default_factory=DecoderLimits)
    known: KnownRows | None = None

    def expand(self, tracks: pvalue.PCollection[Track]) -> pvalue.DoOutputsTuple:
        do_fn = _EnhanceFn(self.settings, self.output, self.drafts, self.limits, self.known)
        outputs: pvalue.DoOutputsTuple = tracks | beam.ParDo(do_fn).with_outputs(
            FAILURES, KNOWN, COUNTS, main=ROWS
        )
        return outputs
