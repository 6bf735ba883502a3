from __future__ import annotations

import pytest

from transforms.audio.decoder_account import Account, crash_error
from transforms.errors import Reason


@pytest.mark.parametrize(
    ("waited", "given", "allowed"),
    [
        (0, 0, 60),
        (25, 0, 35),
        (61, 0, 0),
        (25, 100, 61),  # not 135: a hang is not worth all that has been earned
        (100, 100, 60),
        (1_000, 54_000, 600),  # 15 hours
    ],
)
def test_allowance(waited, given, allowed) -> None:
    account = Account("x", 60.0, float(waited), float(given))
    assert account.allowance_s() == pytest.approx(allowed)


@pytest.mark.parametrize(
    ("status", "told"), [(1, "status 1"), (-11, "SIGSEGV"), (-40, "signal 40")]
)
def test_crash_error(status, told) -> None:
    error = crash_error("x.mp3", status)
    assert error.reason is Reason.DECODER_CRASH
    assert told in error.message


def test_timeout_error() -> None:
    error = Account("x.mp3", 60.0, 61.04, 1.25).timeout_error()
    assert error.reason is Reason.TIMEOUT
    for told in ("x.mp3", "61.0 s of decoding", "1.2 s of sound", "60 s"):
        assert told in error.message


def test_only_waiting_counts() -> None:
    account = Account("x", 60.0)
    with pytest.raises(ZeroDivisionError), account.waiting():
        _ = 1 / 0
    once = account.waited_s
    assert once > 0
    with account.waiting():
        pass
    assert account.waited_s > once
