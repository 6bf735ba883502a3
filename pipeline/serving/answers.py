"""What the service takes and gives, whoever asks: the API or the page.

The page and the API know the service by :class:`Service` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from transforms.errors import CatalogError
from transforms.records import FloatArray


@dataclass(frozen=True)
class Upload:
    """A file that was handed in, as it lies on this machine until it is answered."""

    uri: str  # the name or uri that it was handed in under; only shown, never opened
    path: Path
    sha256: str  # hexadecimal
    size_bytes: int


class Step(str, Enum):
    """How far a file has come."""

    WAITING = "waiting"
    DECODING = "decoding"
    LABELLING = "labelling"


@dataclass(frozen=True)
class Progress:
    """Where the work on a file stands."""

    step: Step
    seconds: float = 0.0  # of sound that were decoded so far


@dataclass(frozen=True)
class Labelled:
    """A labelled file."""

    prediction: Mapping[str, Any]  # transforms.records.PredictionRow's columns
    windows: Sequence[Mapping[str, Any]]  # WindowRow's columns, in order
    picture: bytes | None  # PNG: what the model saw, window after window; None: not asked for
    from_cache: bool  # answered without decoding and inference


@dataclass(frozen=True)
class Enhanced:
    """A file without its noise."""

    row: Mapping[str, Any]  # transforms.results.EnhancedRow's columns but the run's
    path: Path  # FLAC; whoever asked deletes it


@dataclass(frozen=True)
class Heard:
    """What a stream said in one more piece of sound."""

    rows: Sequence[
        Mapping[str, Any]
    ]  # transforms.streaming.rows.LabelRow's, or a failure's columns
    state: bytes  # to be given with the next piece


@dataclass(frozen=True)
class ServedModel:
    """A model that the service has loaded."""

    name: str
    task: str  # label | follow (a stream) | enhance
    model_fingerprint: str
    front_end_fingerprint: str | None
    labels: tuple[str, ...] = ()  # in the order of the scores
    unknown_threshold: float | None = None  # best scores under this are labelled "unknown"
    sample_rate_hz: int | None = None
    window_seconds: float | None = None
    precision: str | None = None
    device: str | None = None


class Problem(str, Enum):
    """Why a request was turned down, where no file is to blame: for those see Reason."""

    INVALID_REQUEST = "invalid_request"  # 400, 422: not as the API documents it
    UNAUTHORIZED = "unauthorized"  # 401: no key, or a wrong one
    FORBIDDEN = "forbidden"  # 403: a uri outside the folders that may be asked for
    NO_SUCH_PAGE = "no_such_page"  # 404
    METHOD_NOT_ALLOWED = "method_not_allowed"  # 405
    TOO_LARGE = "too_large"  # 413: more bytes than one upload may have
    TOO_LONG = "too_long"  # 413: more seconds of sound than are labelled here
    RATE_LIMITED = "rate_limited"  # 429: this client asks too often
    BUSY = "busy"  # 429: as much is in work as may be
    OUT_OF_TIME = "out_of_time"  # 504: the request took longer than one may
    OVERLOADED = "overloaded"  # 503: memory is short
    SHUTTING_DOWN = "shutting_down"  # 503
    INTERNAL = "internal"  # 500


STATUS: Mapping[Problem, int] = {
    Problem.INVALID_REQUEST: 422,
    Problem.UNAUTHORIZED: 401,
    Problem.FORBIDDEN: 403,
    Problem.NO_SUCH_PAGE: 404,
    Problem.METHOD_NOT_ALLOWED: 405,
    Problem.TOO_LARGE: 413,
    Problem.TOO_LONG: 413,
    Problem.RATE_LIMITED: 429,
    Problem.BUSY: 429,
    Problem.OUT_OF_TIME: 504,
    Problem.OVERLOADED: 503,
    Problem.SHUTTING_DOWN: 503,
    Problem.INTERNAL: 500,
}


class RefusedError(CatalogError):
    """A request that is turned down.

    Parameters
    ----------
    problem : Problem
    message : str
        What is wrong and what to do, for a person.
    retry_after_seconds : int, optional
        When it may be tried again.
    """

    def __init__(
        self, problem: Problem, message: str, retry_after_seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.problem = problem
        self.message = message
        self.retry_after_seconds = retry_after_seconds


def untold(progress: Progress) -> None:
    """Tell nobody how far a file has come."""


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    upload_bytes: int = 200 << 20  # of one file
    batch_files: int = 32  # of one request
    audio_seconds: float = 3_600.0  # of one file
    request_seconds: float = 120.0  # from its acceptance to its answer
    in_work: int = 64  # requests that are accepted and not answered
    roots: tuple[str, ...] = field(default=())  # folders whose files may be asked for by uri


class Service(Protocol):
    """Labels, enhances and follows what it is given.

    All methods raise :class:`transforms.errors.StageError` if the sound is to blame, and
    :class:`RefusedError` where something else is. A call that is cancelled stops its work.
    """

    @property
    def models(self) -> Sequence[ServedModel]:
        """The models that it has; the first one labels."""

    @property
    def limits(self) -> Limits:
        """What one request may cost."""

    async def label(
        self, upload: Upload, *, picture: bool = False, told: Callable[[Progress], None] = untold
    ) -> Labelled:
        """Label a file, out of the cache if its bytes are known there.

        Parameters
        ----------
        upload : Upload
        picture : bool
            Whether the answer has a picture of what the model saw.
        told : callable
            Is told of the progress.
        """

    async def enhance(self, upload: Upload) -> Enhanced:
        """Remove DC offset and noise of a file."""

    async def playable(self, upload: Upload, codec: str) -> Path:
        """The upload itself if browsers play its codec, else a FLAC of it beside it."""

    async def follow(
        self, stream_id: str, samples: FloatArray, sample_rate_hz: int, state: bytes | None
    ) -> Heard:
        """Hear the next piece of a live stream.

        Parameters
        ----------
        stream_id : str
            For the rows.
        samples : float32, shape (frames, channels)
            Full scale is 1.0. None at all ends the stream: what is open is told.
        sample_rate_hz : int
        state : bytes or None
            As the piece before left it; None begins a stream.
        """
