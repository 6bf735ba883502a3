"""Makes the rows of a stream out of what is said of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from transforms.errors import Reason
from transforms.provenance import Provenance
from transforms.records import FloatArray
from transforms.streaming.blocks import MAX_BLOCK_BYTES, Block
from transforms.streaming.rows import Kind, LabelRow, StreamFailureRow, utc
from transforms.streaming.running_label import Silence, Statement
from transforms.streaming.stream_state import StreamState

_CLEAN_FRAMES = (MAX_BLOCK_BYTES - 10_000) // 2  # of one block without noise, which is mono


def failure_row(
    provenance: Provenance,
    reason: Reason,
    message: str,
    *,
    row_id: str,
    stream_id: str | None,
    session: int | None = None,
    sequence: int | None = None,
    start_us: int | None = None,
    source: str | None = None,
) -> StreamFailureRow:
    """The row of a block or a stretch that cannot be used, or of bytes that are no block."""
    return StreamFailureRow(
        row_id=row_id,
        stream_id=stream_id,
        session=session,
        sequence=sequence,
        started_at=None if start_us is None else utc(start_us),
        source=source,
        reason=reason.value,
        message=message,
        pipeline_version=provenance.pipeline_version,
        run_id=provenance.run_id,
        failed_at=_now(),
    )


class Teller:
    """Tells of one stream, as far as it has come.

    Parameters
    ----------
    stream_id : str
    state : StreamState
        Is looked at, and counts the clean blocks.
    provenance : Provenance
    """

    def __init__(self, stream_id: str, state: StreamState, provenance: Provenance) -> None:
        self._stream_id, self._state, self._provenance = stream_id, state, provenance

    def tell(self, said: Iterable[Statement | Silence]) -> Iterator[LabelRow | StreamFailureRow]:
        """What is said of the open stretch."""
        stretch = self._state.stretch
        assert stretch is not None
        for one in said:
            start_us, end_us = (
                stretch.start_us + round(1e6 * min(at_s, stretch.seconds))
                for at_s in (one.start_s, one.end_s)
            )
            if start_us == end_us:
                continue  # the last frame may be centred on the end of the sound
            if isinstance(one, Silence):
                yield self._silence(start_us, end_us)
            else:
                yield self._row(one.kind, start_us, end_us, label=one.label,
                                confidence=one.confidence, scores=one.scores)  # fmt: skip

    def gap(self, start_us: int) -> LabelRow:
        """What is missing between the newest sample that was heard and an event time."""
        end_us = self._state.end_us
        return self._row("gap", end_us, start_us, gap_s=(start_us - end_us) / 1e6,
                         lost_blocks=self._state.lost_blocks)  # fmt: skip

    def end(self) -> LabelRow:
        """The session is over."""
        return self._row("end", self._state.origin_us or 0, self._state.end_us)

    def refused(self, block: Block, reason: Reason, message: str) -> StreamFailureRow:
        """A block that is not heard as it should be."""
        return failure_row(
            self._provenance,
            reason,
            message,
            row_id=f"{block.stream_id}/{block.session}/{reason.value}/{block.sequence}",
            stream_id=block.stream_id,
            session=block.session,
            sequence=block.sequence,
            start_us=block.event_time_us,
        )

    def clean(self, sound: FloatArray, rate_hz: int, *, last: bool = False) -> Iterator[Block]:
        """The sound without its noise, in blocks; one at least with ``last``."""
        stretch, state = self._state.stretch, self._state
        pcm = np.clip(np.rint(sound * 32_768), -32_768, 32_767).astype("<i2")
        starts = range(0, len(pcm), _CLEAN_FRAMES) or range(int(last))
        for start in starts:
            part = pcm[start : start + _CLEAN_FRAMES]
            event_time_us = state.end_us
            if stretch is not None:
                event_time_us = stretch.start_us + round(1e6 * stretch.clean_frames / rate_hz)
                stretch.clean_frames += len(part)
            yield Block(
                stream_id=self._stream_id,
                session=state.cursor.session,
                sequence=state.clean_blocks,
                event_time_us=event_time_us,
                sample_rate_hz=rate_hz,
                channels=1,
                last=last and start == starts[-1],
                payload=part.tobytes(),
            )
            state.clean_blocks += 1

    def _silence(self, start_us: int, end_us: int) -> StreamFailureRow:
        state = self._state
        since_s = (start_us - (state.origin_us or 0)) / 1e6
        return failure_row(
            self._provenance,
            Reason.SILENCE,
            f"no sound for {(end_us - start_us) / 1e6:.1f} s, {since_s:.1f} s in",
            row_id=self._row_id(Reason.SILENCE.value, start_us),
            stream_id=self._stream_id,
            session=state.cursor.session,
            sequence=state.sequence,
            start_us=start_us,
        )

    def _row(self, kind: Kind, start_us: int, end_us: int, **said: Any) -> LabelRow:
        state, provenance = self._state, self._provenance
        zero_us = state.origin_us or 0
        return LabelRow(
            row_id=self._row_id(kind, start_us),
            kind=kind,
            stream_id=self._stream_id,
            session=state.cursor.session,
            sequence=state.sequence,
            start_s=(start_us - zero_us) / 1e6,
            end_s=(end_us - zero_us) / 1e6,
            started_at=utc(start_us),
            ended_at=utc(end_us),
            **said,
            model_fingerprint=provenance.model_fingerprint,
            front_end_fingerprint=provenance.front_end_fingerprint,
            pipeline_version=provenance.pipeline_version,
            run_id=provenance.run_id,
            labelled_at=_now(),
        )

    def _row_id(self, kind: str, start_us: int) -> str:
        """By what it is about: repeated work gives the same."""
        return f"{self._stream_id}/{self._state.cursor.session}/{kind}/{start_us}"


def _now() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc)
