"""The exceptions of the project; a leaf module, importable from every layer.

CatalogError                everything this project raises on purpose
├── UsageError              a wrong call: one line for the caller, exit status 2
│   ├── InputError          nothing matched, an unreadable manifest, a missing column
│   ├── FrontEndError       a front end that is missing, foreign or out of range
│   └── CheckpointError     a checkpoint that cannot or must not be loaded
├── StageError              one element that a stage cannot handle: becomes a failures row
├── RunError                no input's fault: the run stops, and the same call goes on from there
│   ├── StorageError        the run's own storage is full or fails
│   ├── WorkerError         a machine that lacks what every track needs
│   └── ClusterError        the runner's job cannot be started, fails or is lost
└── BooksError              inputs and outcomes of a run do not balance
"""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Why an input failed: the closed set of values of ``failures.reason``.

    docs/output.md says for each what to do about it.
    """

    NOT_FOUND = "not_found"
    PERMISSION_DENIED = "permission_denied"
    UNREADABLE = "unreadable"
    EMPTY_FILE = "empty_file"
    NOT_AUDIO = "not_audio"
    UNSUPPORTED_CODEC = "unsupported_codec"
    CORRUPT = "corrupt"
    TOO_SHORT = "too_short"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    DECODER_CRASH = "decoder_crash"
    INVALID_SAMPLES = "invalid_samples"
    INVALID_IMAGE = "invalid_image"
    INVALID_SCORES = "invalid_scores"
    UNSUPPORTED_OUTPUT = "unsupported_output"
    INCOMPLETE = "incomplete"
    MALFORMED_BLOCK = "malformed_block"
    LATE_BLOCK = "late_block"
    FORMAT_CHANGED = "format_changed"
    FLOODED = "flooded"
    SILENCE = "silence"
    INTERNAL_ERROR = "internal_error"


FROM_OUTSIDE = frozenset(
    {
        Reason.PERMISSION_DENIED, Reason.UNREADABLE, Reason.TIMEOUT, Reason.OUT_OF_MEMORY,
        Reason.DECODER_CRASH, Reason.INCOMPLETE, Reason.INTERNAL_ERROR,
    }
)  # fmt: skip
"""Reasons that may lie in the machine, the network or the end of a run as well as in the file."""


class CatalogError(Exception):
    """Root of every exception that this project raises on purpose."""


class UsageError(CatalogError):
    """The caller asked for something that cannot be done; the message says the remedy."""


class InputError(UsageError):
    """An ``--input`` that matches nothing or cannot be read."""


class FrontEndError(UsageError):
    """A front end that is missing, foreign, contradictory or out of range."""


class CheckpointError(UsageError):
    """A checkpoint that is missing, incomplete, or in a format that must not be loaded."""


class StageError(CatalogError):
    """One element that a stage cannot handle.

    Parameters
    ----------
    reason : Reason
        The code that goes into ``failures.reason``.
    message : str
        What was found, for a person.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[StageError], tuple[Reason, str]]:
        return type(self), (self.reason, self.message)  # an exception's own way gives one argument


class RunError(CatalogError):
    """What no input is to blame for: the run stops, and the same call goes on from there."""


class StorageError(RunError):
    """The run's own storage is full or keeps failing."""


class WorkerError(RunError):
    """A machine that lacks what every track needs: room for decoders, or the run's model."""


class ClusterError(RunError):
    """A runner whose job cannot be started, fails for a reason of its own, or is lost."""


class BooksError(CatalogError):
    """A run in which some input has no outcome, or more than one."""
