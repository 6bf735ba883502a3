"""In which order the blocks of one stream are heard, and which are not: the rules, free of Beam.

A stream is heard by (session, sequence). A block that comes too early waits, at most
``lateness_us`` of event time and within bounds of number and size; then what is missing before it
is a gap. What was heard already is dropped; what comes behind the gap that it belongs to is late.
A session that is greater than the one before ends that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from transforms.errors import Reason, StageError
from transforms.streaming.blocks import Block

_GAPS_KEPT = 8  # in which a late block is told from a repeated one


@dataclass(frozen=True, kw_only=True)
class OrderRules:
    """What may wait, and for how long."""

    lateness_us: int = 2_000_000  # event time after which a missing block is given up
    max_held_blocks: int = 64
    max_held_bytes: int = 8_000_000
    max_ahead_us: int = 10_000_000  # more sound than its event time: then blocks are dropped


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Blocks that did not come."""

    lost_blocks: int


@dataclass(frozen=True, kw_only=True)
class Flood:
    """A block that is not heard: its stream sends more sound than time passes."""

    block: Block
    ahead_us: int
    first: bool  # the stream did not flood before
    in_turn: bool  # else it becomes part of a gap


@dataclass(frozen=True, kw_only=True)
class SessionEnd:
    """No more blocks of this session will be heard."""


Event = Block | Gap | Flood | SessionEnd
"""What is to be done next, in this order."""


@dataclass
class Cursor:
    """Where a stream stands: everything but the blocks that wait."""

    session: int = 0
    next_sequence: int | None = None  # None: not begun
    ended: bool = False
    end_us: int = 0  # event time behind the newest block that came
    ahead_us: int = 0  # sound that came beyond what event time has passed
    flooding: bool = False
    held_blocks: int = 0
    held_bytes: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # from, up to: the newest ones

    def missed(self, sequence: int) -> bool:
        """Whether a block was given up."""
        return any(start <= sequence < end for start, end in self.gaps)


class Order:
    """The order of one stream.

    Parameters
    ----------
    rules : OrderRules
    cursor : Cursor
        Is changed.
    held : mapping
        Blocks that wait, by sequence; read only where ``cursor.held_blocks`` is not 0. Is changed.
    """

    def __init__(self, rules: OrderRules, cursor: Cursor, held: Mapping[int, Block]) -> None:
        self._rules, self.cursor, self.held = rules, cursor, dict(held)
        self.repeated = 0  # blocks that came before

    def arrive(self, block: Block) -> Iterator[Event]:
        """Take a block that has come.

        Yields
        ------
        Event
            To be done in this order; nothing for a block that is a repetition, or waits.

        Raises
        ------
        StageError
            ``late_block``: it will not be heard.
        """
        cursor = self.cursor
        if block.session < cursor.session:
            raise StageError(
                Reason.LATE_BLOCK,
                f"session {block.session} is over: session {cursor.session} has begun",
            )
        if block.session > cursor.session:
            yield from self.close()
            self.cursor = cursor = Cursor(session=block.session)
        if self._is_repeated(block):
            self.repeated += 1
            return
        if ahead_us := self._ahead(block):
            yield from self._drop(block, ahead_us)
        else:
            self._hold(block)
        yield from self._ready()
        while cursor.held_blocks > self._rules.max_held_blocks or (
            cursor.held_bytes > self._rules.max_held_bytes
        ):
            yield from self._skip()

    def expire(self, now_us: int) -> Iterator[Event]:
        """Give up what is missing in front of blocks that have waited long enough."""
        while self.held and self.held[min(self.held)].event_time_us <= (
            now_us - self._rules.lateness_us
        ):
            yield from self._skip()

    def close(self) -> Iterator[Event]:
        """Hear all that waits, and end the session."""
        while self.held:
            yield from self._skip()
        if not self.cursor.ended and self.cursor.next_sequence is not None:
            self.cursor.ended = True
            yield SessionEnd()

    @property
    def due_us(self) -> int | None:
        """Event time at which :meth:`expire` has something to do; None: nothing waits."""
        if not self.held:
            return None
        return self.held[min(self.held)].event_time_us + self._rules.lateness_us

    def _is_repeated(self, block: Block) -> bool:
        cursor = self.cursor
        if cursor.next_sequence is None or block.sequence >= cursor.next_sequence:
            if cursor.ended:
                raise StageError(Reason.LATE_BLOCK, "the stream had ended before it came")
            return block.sequence in self.held
        if cursor.missed(block.sequence):
            raise StageError(
                Reason.LATE_BLOCK,
                f"block {block.sequence} came when {cursor.next_sequence - 1} had been heard",
            )
        return True

    def _ahead(self, block: Block) -> int:
        """By how much a block would flood; 0: it may be heard.

        A bucket that fills with sound and leaks with event time, 1 % faster than real time. Once
        it is full, blocks are dropped until half of it has leaked.
        """
        cursor, sound_us = self.cursor, block.end_time_us - block.event_time_us
        passed_us = max(0, block.end_time_us - cursor.end_us) if cursor.end_us else sound_us
        cursor.end_us = max(cursor.end_us, block.end_time_us)
        ahead_us = max(0, cursor.ahead_us + sound_us - sound_us // 100 - passed_us)
        most_us = self._rules.max_ahead_us // (2 if cursor.flooding else 1)
        if ahead_us > most_us:
            cursor.ahead_us = max(0, cursor.ahead_us - passed_us)
            return ahead_us
        cursor.ahead_us, cursor.flooding = ahead_us, False
        return 0

    def _drop(self, block: Block, ahead_us: int) -> Iterator[Event]:
        """Do not hear a block, as if it had not come."""
        cursor = self.cursor
        first, cursor.flooding = not cursor.flooding, True
        in_turn = block.sequence == cursor.next_sequence
        yield Flood(block=block, ahead_us=ahead_us, first=first, in_turn=in_turn)
        if in_turn:
            self._give_up(block.sequence + 1)
            if block.last:
                yield from self._end()

    def _hold(self, block: Block) -> None:
        self.held[block.sequence] = block
        self.cursor.held_blocks += 1
        self.cursor.held_bytes += len(block.payload)

    def _ready(self) -> Iterator[Event]:
        """The blocks that come next without a gap."""
        cursor = self.cursor
        if cursor.next_sequence is None and 0 in self.held:
            cursor.next_sequence = 0
        while cursor.next_sequence in self.held and not cursor.ended:
            block = self.held.pop(cursor.next_sequence)
            cursor.held_blocks -= 1
            cursor.held_bytes -= len(block.payload)
            cursor.next_sequence += 1
            yield block
            if block.last:
                yield from self._end()

    def _skip(self) -> Iterator[Event]:
        """Go on at the earliest block that waits."""
        first, due = min(self.held), self.cursor.next_sequence
        if due is not None:  # else this is where the stream was joined
            yield Gap(lost_blocks=first - due)
        self._give_up(first)
        yield from self._ready()

    def _give_up(self, following: int) -> None:
        """Go on at a block; those in front of it are late from now on."""
        cursor = self.cursor
        due, gaps = cursor.next_sequence or 0, cursor.gaps
        if gaps and gaps[-1][1] == due:
            cursor.gaps = [*gaps[:-1], (gaps[-1][0], following)]
        else:
            cursor.gaps = [*gaps, (due, following)][-_GAPS_KEPT:]
        cursor.next_sequence = following

    def _end(self) -> Iterator[Event]:
        """Behind the last block; what is numbered behind it cannot be meant."""
        self.held.clear()
        self.cursor.held_blocks = self.cursor.held_bytes = 0
        self.cursor.ended = True
        yield SessionEnd()
