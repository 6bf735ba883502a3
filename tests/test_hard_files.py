"""Real files that are hard to read, beside the repository: each is read whole, or says why not.

decoders.csv beside them says what three decoders made of each: libsndfile, the ffmpeg program and
PyAV. Nothing of it was made by the code under test.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest

from tests.decoding import decode
from transforms.errors import Reason, StageError

HARD = Path(__file__).parents[1].parent / "shared" / "data" / "hard"
TABLE = HARD / "decoders.csv"
DECODERS = ("sf", "ff", "av")
REASONS = {
    Reason.EMPTY_FILE, Reason.NOT_AUDIO, Reason.UNSUPPORTED_CODEC, Reason.CORRUPT,
    Reason.TOO_SHORT,
}  # fmt: skip

pytestmark = pytest.mark.skipif(not TABLE.is_file(), reason="no shared/data/hard beside this")


def rows() -> list[dict[str, str]]:
    if not TABLE.is_file():
        return []
    with TABLE.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def near(seconds: float, other: float) -> bool:
    return abs(seconds - other) <= max(0.1, 0.02 * max(seconds, other))


def agreed_s(row: dict[str, str]) -> tuple[float | None, bool]:
    """The longest decode that two agree on, or a single one; and whether any decoder reads it."""
    read = [row[f"{name}_dur"] for name in DECODERS if row[f"{name}_ok"] == "1"]
    lengths = [float(text) for text in read if text and float(text) > 0]
    if len(lengths) == 1:
        return lengths[0], True
    pairs = [max(pair) for pair in itertools.combinations(lengths, 2) if near(*pair)]
    return max(pairs, default=None), bool(lengths)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["path"])
def test_hard_file(row):
    expected_s, readable = agreed_s(row)
    try:
        decoded, info, warnings = decode(HARD / row["path"])
    except StageError as error:
        assert error.reason in REASONS and error.message
        assert not readable, error.message
        assert (error.reason is Reason.EMPTY_FILE) == (row["size"] == "0")
    else:
        assert readable
        seconds = len(decoded) / info.sample_rate_hz
        assert expected_s is None or near(seconds, expected_s) or warnings


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (("", "", ""), (None, False)),
        (("", "0.0", ""), (None, False)),
        (("1.0", "", ""), (1.0, True)),
        (("1.0", "9.0", "9.1"), (9.1, True)),
        (("1.0", "2.0", "9.0"), (None, True)),
        (("1.0", "1.05", "9.0"), (1.05, True)),
    ],
)
def test_what_the_table_is_taken_to_say(lengths, expected):
    row = dict(zip(("sf_dur", "ff_dur", "av_dur"), lengths, strict=True))
    row |= {f"{name}_ok": str(int(bool(row[f"{name}_dur"]))) for name in DECODERS}
    assert agreed_s(row) == expected
