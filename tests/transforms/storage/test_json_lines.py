"""Rows as JSON: what any parser reads back."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.storage.json_lines import to_json_line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_word_for_what_is_no_number(value):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    line = to_json_line({"a": value, "b": [1.5, value], "c": {"d": value}, "e": "NaN"})
    expected = {"a": None, "b": [1.5, None], "c": {"d": None}, "e": "NaN"}
    assert json.loads(line, parse_constant=refuse) == expected


def test_a_json_line_is_one_line():
    line = to_json_line({"a": "x\ny\u2028", "b": b"\x00", "c": dt.time(1, 2)})
    assert "\n" not in line
    assert json.loads(line) == {"a": "x\ny\u2028", "b": "b'\\x00'", "c": "01:02:00"}


PLAIN = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    PLAIN | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_what_json_can_say_survives(row):
    assert json.loads(to_json_line(row)) == row


def test_other_scripts_are_written_as_they_are():
    assert to_json_line({"a": "ünï 日本"}) == '{"a": "ünï 日本"}'


def test_times_are_iso_8601():
    when = dt.datetime(2024, 2, 29, 23, 59, 59, 5, tzinfo=dt.timezone.utc)
    line = to_json_line({"when": when, "day": dt.date(2020, 2, 29), "both": [when]})
    parsed = json.loads(line)
    assert dt.datetime.fromisoformat(parsed["when"]) == when
    assert parsed["day"] == "2020-02-29"
    assert parsed["both"] == [parsed["when"]]
