"""What is tried again, how often, and what is given up at once."""

from __future__ import annotations

import errno
import logging

import pytest
from apache_beam.io.filesystem import BeamIOError

from tests.memory_files import CodedError, FakeClock
from transforms.storage import retry
from transforms.storage.retry import is_storage_error, may_pass, retried

FULL = OSError(errno.ENOSPC, "No space left on device")
MISSING = FileNotFoundError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ConnectionError("without a number"),
        TimeoutError("without a number"),
        CodedError(408),
        CodedError(429),
        CodedError(500),
        CodedError(503),
        CodedError(None),  # no answer came
        BeamIOError("wrapped", {"a": CodedError(503)}),
        BeamIOError("twice", {"a": BeamIOError("once", {"a": FULL})}),
        BeamIOError("one of them", {"a": CodedError(404), "b": CodedError(503)}),
    ],
    ids=repr,
)
def test_may_pass(error):
    assert may_pass(error)
    assert is_storage_error(error)


@pytest.mark.parametrize(
    "error",
    [
        MISSING,
        PermissionError(errno.EACCES, "Permission denied"),
        IsADirectoryError(errno.EISDIR, "Is a directory"),
        OSError("without a number"),
        CodedError(404),
        CodedError(403),
        CodedError(200),
        BeamIOError("wrapped", {"a": CodedError(404)}),
        BeamIOError("without details"),
        ValueError("no error of storage"),
    ],
    ids=repr,
)
def test_may_not_pass(error):
    assert not may_pass(error)


def test_what_is_no_error_of_storage():
    assert not is_storage_error(ValueError("5"))
    assert not is_storage_error(KeyError("code"))


class Flaky:
    """Fails as often as it has errors, then gives 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.calls = list(errors), 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


@pytest.mark.parametrize("failures", [0, 1, 3, 8])
def test_tries_until_it_succeeds(failures):
    flaky, clock = Flaky(*[FULL] * failures), FakeClock()
    assert retried("a", flaky, clock=clock) == 7
    assert (flaky.calls, len(clock.slept)) == (failures + 1, failures)


def test_gives_up_with_the_last_error_after_longer_and_longer_delays():
    errors = [OSError(errno.EIO, str(number)) for number in range(20)]
    clock = FakeClock()
    with pytest.raises(OSError, match="8") as caught:
        retried("a", Flaky(*errors), clock=clock)
    assert caught.value is errors[8]
    assert len(clock.slept) == 8
    assert clock.slept[0] <= 0.5 and max(clock.slept) <= 30
    assert clock.slept[:5] == sorted(clock.slept[:5])
    assert 30 < sum(clock.slept) < retry.PATIENCE_SECONDS


def test_what_cannot_pass_is_raised_at_once():
    flaky, clock = Flaky(MISSING), FakeClock()
    with pytest.raises(FileNotFoundError):
        retried("a", flaky, clock=clock)
    assert (flaky.calls, clock.slept) == (1, [])


def test_a_passing_error_may_be_followed_by_one_that_stays():
    flaky = Flaky(FULL, CodedError(403))
    with pytest.raises(CodedError, match="403"):
        retried("a", flaky, clock=FakeClock())
    assert flaky.calls == 2


def test_no_attempt_is_begun_after_the_patience(monkeypatch):
    now = [1_000.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])

    def slow() -> None:
        now[0] += retry.PATIENCE_SECONDS / 2 + 1  # what the file system's own retries took
        raise FULL

    clock = FakeClock()
    with pytest.raises(OSError, match="No space"):
        retried("a", slow, clock=clock)
    assert len(clock.slept) == 1


def test_the_log_says_what_is_tried_again_and_why(caplog):
    with caplog.at_level(logging.WARNING):
        retried("s3://bucket/a", Flaky(FULL), clock=FakeClock())
    (record,) = caplog.records
    assert record.name == "transforms.storage.retry"
    message = record.getMessage()
    assert message.startswith("s3://bucket/a: ")
    assert "No space left" in message and "trying again in 0." in message
    assert "\n" not in message


def test_a_stop_by_hand_is_not_tried_again():
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        retried("a", interrupted, clock=FakeClock())
