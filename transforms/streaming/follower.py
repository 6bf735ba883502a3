"""Follows a stream: what is to be done with its blocks, in order, becomes rows.

The same events on the same state give the same rows, but for the clock that stamps them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np

from transforms.errors import Reason, StageError
from transforms.models.front_end import ChannelRule
from transforms.provenance import Provenance
from transforms.records import FloatArray
from transforms.streaming.blocks import Block
from transforms.streaming.denoising import StreamDenoiser
from transforms.streaming.ordering import Event, Flood, Gap
from transforms.streaming.recogniser import StreamRecogniser
from transforms.streaming.rows import LabelRow, StreamFailureRow
from transforms.streaming.running_label import RunningLabel
from transforms.streaming.stream_state import StreamState, Stretch
from transforms.streaming.telling import Teller

Outcome = LabelRow | StreamFailureRow | Block
"""A row, or a block of the stream without its noise."""


class Follower:
    """Follows streams whose states the caller keeps.

    Parameters
    ----------
    recogniser : StreamRecogniser
    running_label : RunningLabel
    provenance : Provenance
    denoiser : StreamDenoiser, optional
        Gives the sound without its noise, too.
    idle_us, forget_us : int, optional
        Event time between two blocks, after which what was open is told, or the session has ended:
        as the timers do it, where they fire in time.
    """

    def __init__(
        self,
        recogniser: StreamRecogniser,
        running_label: RunningLabel,
        provenance: Provenance,
        denoiser: StreamDenoiser | None = None,
        *,
        idle_us: int = sys.maxsize,
        forget_us: int = sys.maxsize,
    ) -> None:
        self._recogniser, self._label, self._denoiser = recogniser, running_label, denoiser
        self._provenance, self._idle_us, self._forget_us = provenance, idle_us, forget_us
        self._rule: ChannelRule = recogniser.front_end.channel_rule

    def follow(
        self, stream_id: str, events: Iterable[Event], state: StreamState
    ) -> Iterator[Outcome]:
        """Do what is to be done with a stream; ``state`` is changed."""
        teller = Teller(stream_id, state, self._provenance)
        for event in events:
            if isinstance(event, Block):
                yield from self._hear(event, state, teller)
            elif isinstance(event, Gap):
                yield from self._pause(state, teller)
                state.lost_blocks += event.lost_blocks
            elif isinstance(event, Flood):
                yield from self._drop(event, state, teller)
            else:
                yield from self._end(state, teller)

    def sleep(self, stream_id: str, state: StreamState) -> Iterator[Outcome]:
        """Tell what is open of a stream that sends nothing; ``state`` is changed."""
        yield from self._pause(state, Teller(stream_id, state, self._provenance))
        state.asleep = True

    def refuse(self, block: Block, error: StageError, state: StreamState) -> StreamFailureRow:
        """The row of a block that came too late."""
        teller = Teller(block.stream_id, state, self._provenance)
        return teller.refused(block, error.reason, error.message)

    def _drop(self, flood: Flood, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        if flood.in_turn:
            yield from self._pass_time(flood.block, state, teller)
            yield from self._pause(state, teller)
            state.lost_blocks += 1
        if flood.first:
            yield teller.refused(flood.block, Reason.FLOODED, _of_flood(flood))

    def _pass_time(self, block: Block, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        """What the timers would have done before a block, had they been heard in time."""
        silent_us = block.event_time_us - state.block_end_us
        if state.block_end_us and silent_us >= self._forget_us:
            yield from self._end(state, teller)
        elif state.block_end_us and silent_us >= self._idle_us:
            yield from self._pause(state, teller)
            state.asleep = True
        state.block_end_us = max(state.block_end_us, block.end_time_us)

    def _hear(self, block: Block, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        yield from self._pass_time(block, state, teller)
        try:
            samples = block.mono(self._rule)
        except StageError as error:
            yield from self._pause(state, teller)
            yield teller.refused(block, error.reason, error.message)
            state.lost_blocks += 1
            return
        if not len(samples):  # it says that the stream lives, or has ended
            return
        if changed := _change(block, state.stretch):
            yield from self._pause(state, teller)
            yield teller.refused(block, Reason.FORMAT_CHANGED, changed)
        if state.stretch is None:
            yield from self._begin(block, state, teller)
        yield from self._step(block, samples, state, teller)

    def _begin(self, block: Block, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        if state.origin_us is None:
            state.origin_us = state.end_us = block.event_time_us
        elif state.lost_blocks or state.asleep:
            start_us = max(block.event_time_us, state.end_us)
            yield teller.gap(start_us)
            state.end_us = start_us
            state.clean_blocks += 1  # one that is missing: it is a gap there, too
        state.lost_blocks, state.asleep = 0, False
        state.stretch = Stretch(block.sample_rate_hz, block.channels, state.end_us)
        state.arrays = {**self._recogniser.initial_state(), **self._label.initial_state()}
        if self._denoiser is not None:
            state.arrays |= self._denoiser.initial_state()

    def _step(
        self, block: Block, samples: FloatArray, state: StreamState, teller: Teller
    ) -> Iterator[Outcome]:
        stretch, before = state.stretch, state.arrays
        assert stretch is not None
        stretch.frames += len(samples)
        state.sequence, state.end_us = block.sequence, stretch.end_us
        heard, after = self._recogniser.step(samples, stretch.sample_rate_hz, before)
        said, labelled = self._label.step(heard, before)
        yield from teller.tell(said)
        state.arrays = {**before, **after, **labelled}
        if self._denoiser is not None:
            sound, clean = self._denoiser.step(samples, stretch.sample_rate_hz, before)
            state.arrays |= clean
            yield from teller.clean(sound, self._denoiser.sample_rate_hz)

    def _pause(self, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        """Tell what is open, and begin anew with the next block."""
        stretch, arrays = state.stretch, state.arrays
        if stretch is None:
            return
        heard = self._recogniser.finish(stretch.sample_rate_hz, arrays)
        said, after = self._label.step(heard, arrays)
        yield from teller.tell(said)
        frames = heard.first + len(heard)
        yield from teller.tell(self._label.finish(frames, stretch.seconds, after))
        if self._denoiser is not None:
            sound = self._denoiser.finish(stretch.sample_rate_hz, arrays)
            yield from teller.clean(sound, self._denoiser.sample_rate_hz)
        state.stretch, state.arrays = None, {}

    def _end(self, state: StreamState, teller: Teller) -> Iterator[Outcome]:
        yield from self._pause(state, teller)
        if state.origin_us is not None:  # else nothing of it was heard
            if self._denoiser is not None:
                nothing = np.zeros(0, dtype=np.float32)
                yield from teller.clean(nothing, self._denoiser.sample_rate_hz, last=True)
            yield teller.end()
        state.origin_us, state.lost_blocks, state.clean_blocks = None, 0, 0
        state.asleep, state.block_end_us = False, 0


def _change(block: Block, stretch: Stretch | None) -> str:
    """What changes with a block, if anything does."""
    if stretch is None:
        return ""
    was, now = (f"{one.sample_rate_hz} Hz in {one.channels} channels" for one in (stretch, block))
    return "" if was == now else f"from {was} to {now}: its labels start anew"


def _of_flood(flood: Flood) -> str:
    return (
        f"{flood.ahead_us / 1e6:.1f} s of sound more than its event time allows: blocks are "
        "dropped until it has caught up"
    )
