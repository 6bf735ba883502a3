"""What one visitor has handed in and got; a page keeps one per session and never mixes them."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.serving.answers import Labelled

MAX_ENTRIES = 100
MAX_SOUND_BYTES = 1 << 30  # of a session: beyond, the oldest sounds go, and their rows stay
_SUFFIX = re.compile(r"\.[a-z0-9]{1,8}")
_NOT_IN_STEM = re.compile(r"[^\w \-.()]")
_NO_SUFFIX = ".bin"


class State(str, Enum):
    """How far an entry has come."""

    WAITING = "waiting"
    BUSY = "waiting.busy"  # the service turned it down for now
    DECODING = "decoding"
    LABELLING = "labelling"
    DONE = "done"
    FAILED = "failed"


FINAL = (State.DONE, State.FAILED)


class Span(NamedTuple):
    """A window of a labelled file: a WindowRow without its scores, of which there are many."""

    start_s: float
    end_s: float
    label: str
    confidence: float


@dataclass
class Entry:
    """A file of a session.

    The picture lies on disk: a session may have a hundred of them.
    """

    number: int  # from 1, in the order of handing in
    name: str  # as the visitor's machine calls it
    file: Path
    state: State = State.WAITING
    seconds: float = 0.0  # of sound decoded so far
    prediction: Mapping[str, Any] = field(default_factory=dict)
    windows: Sequence[Span] = ()
    picture: Path | None = None
    sound: Path | None = None  # what the browser plays
    from_cache: bool = False
    reason: str = ""  # of a failure: a Reason or a Problem
    message: str = ""

    def answered(self, labelled: Labelled, sound: Path | None) -> None:
        """Take over the service's answer."""
        self.prediction = labelled.prediction
        self.windows = [
            Span(row["start_s"], row["end_s"], row["label"], row["confidence"])
            for row in labelled.windows
        ]
        self.sound, self.from_cache = sound, labelled.from_cache
        if labelled.picture is not None:
            self.picture = self.file.with_name(f"{self.file.name}-picture.png")
            self.picture.write_bytes(labelled.picture)
        self.state = State.DONE

    def failed(self, reason: str, message: str) -> None:
        """Take over why there is no answer."""
        self.state, self.reason, self.message = State.FAILED, reason, message

    def forget(self) -> None:
        """Delete its files."""
        self.forget_sound()
        if self.picture is not None:
            self.picture.unlink(missing_ok=True)

    def forget_sound(self) -> None:
        """Delete what was handed in and what the browser plays; the result stays."""
        for path in self._sounds:
            path.unlink(missing_ok=True)
        self.sound = None

    @property
    def sound_bytes(self) -> int:
        """What its sound takes on disk."""
        return sum(path.stat().st_size for path in self._sounds if path.exists())

    @property
    def _sounds(self) -> set[Path]:
        return {self.file} if self.sound is None else {self.file, self.sound}


@dataclass
class Session:
    """The files of one visitor, the newest last."""

    entries: list[Entry] = field(default_factory=list)
    selected: int | None = None  # the number of the entry that is shown
    ends: list[Entry] = field(default_factory=list)  # entries in the order of their ends
    version: int = 0  # grows with every change that a visitor can see
    folder: Path | None = None  # of its files, once it has any
    work: set[asyncio.Task[Any]] = field(default_factory=set)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)  # of its downloads
    following: bool = False  # the next file that is labelled is shown
    enhanced: Path | None = None  # the folder of the newest enhanced file, the only one kept
    number: int = 0  # the last one that was given
    recording: int = 0

    def open_folder(self, within: Path) -> Path:
        """A folder of its own, whose name nobody guesses."""
        if self.folder is None:
            self.folder = within / f"session-{secrets.token_urlsafe(16)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def next_number(self) -> int:
        """A number that this session never gave before."""
        self.number += 1
        return self.number

    def next_recording(self) -> int:
        """How many recordings there are, with one that is new."""
        self.recording += 1
        return self.recording

    def add(self, name: str, file: Path, within: Path) -> Entry:
        """Add a file; it gets a second link here, which lives as long as the session."""
        number = self.next_number()
        kept = self.open_folder(within) / f"{number}{safe_suffix(name)}"
        entry = Entry(number, name, kept)
        try:
            os.link(file, kept)
        except OSError as error:
            entry.failed("not_found", str(error.strerror))
        self.entries.append(entry)
        self._drop_oldest()
        self.version += 1
        return entry

    def _drop_oldest(self) -> None:
        ended = [entry for entry in self.entries if entry.state in FINAL]
        dropped = ended[: max(0, len(self.entries) - MAX_ENTRIES)]
        for entry in dropped:
            entry.forget()
        gone = {entry.number for entry in dropped}
        self.entries = [entry for entry in self.entries if entry.number not in gone]

    def _drop_sounds(self) -> None:
        sizes = {entry.number: entry.sound_bytes for entry in self.entries}
        surplus = sum(sizes.values()) - MAX_SOUND_BYTES
        for entry in self.entries:
            if surplus > 0 and entry.state in FINAL:
                entry.forget_sound()
                surplus -= sizes[entry.number]

    def keep_enhanced(self, folder: Path) -> None:
        """Keep the folder of an enhanced file, in place of the one before."""
        if self.enhanced is not None:
            shutil.rmtree(self.enhanced, ignore_errors=True)
        self.enhanced = folder

    def entry(self, number: int | None) -> Entry | None:
        """The entry of a number, if it is still kept."""
        return next((entry for entry in self.entries if entry.number == number), None)

    def select(self, number: int) -> None:
        """Show an entry."""
        self.selected, self.following = number, False
        self.version += 1

    def follow(self) -> None:
        """Show the next entry that is labelled, and until then those that fail."""
        self.following = True

    def ended(self, entry: Entry) -> None:
        """Take note of an entry that is done or failed; a failure gives way to a result."""
        if self.following:
            self.selected = entry.number
            self.following = entry.state is not State.DONE
        self.ends = [*self.ends[1 - MAX_ENTRIES :], entry]
        self._drop_sounds()
        self.version += 1

    @property
    def done(self) -> list[Entry]:
        """The entries that were labelled."""
        return [entry for entry in self.entries if entry.state is State.DONE]

    def clear(self) -> None:
        """Stop its work and delete everything."""
        for task in self.work:
            task.cancel()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.entries, self.ends, self.selected, self.folder = [], [], None, None
        self.enhanced = None
        self.version += 1


def safe_suffix(name: str) -> str:
    """The end of a file's name if a server may use it as one."""
    suffix = Path(name).suffix.lower()
    return suffix if _SUFFIX.fullmatch(suffix) else _NO_SUFFIX


def safe_stem(name: str) -> str:
    """The rest of a file's name, without what is no letter, figure, space or one of ``-_.()``."""
    return _NOT_IN_STEM.sub("_", Path(name).stem)[:80] or "sound"
