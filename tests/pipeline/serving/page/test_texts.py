"""The words of the page."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from pipeline.serving.answers import Problem, Step
from pipeline.serving.page import texts
from pipeline.serving.page.chinese import CHINESE
from pipeline.serving.page.english import ENGLISH
from pipeline.serving.page.session import State
from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason

PAGE = Path(texts.__file__).parent
CODES = [f"reason.{code.value}" for code in (*Reason, *Problem)]
CODES += [f"warning.{code.value}" for code in DecodeWarning]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_say_the_same_things() -> None:
    assert list(CHINESE) == list(ENGLISH)
    assert {key: placeholders(text) for key, text in CHINESE.items()} == {
        key: placeholders(text) for key, text in ENGLISH.items()
    }


def test_no_text_is_empty_or_has_markup() -> None:
    for text in (*ENGLISH.values(), *CHINESE.values()):
        assert text.strip()
        assert not set(text) & set('<>&"')


def test_chinese_is_chinese() -> None:
    exempt = {"language", "fact.sha256", "announce.done"}
    for key in CHINESE.keys() - exempt:
        assert re.search("[\u4e00-\u9fff]", CHINESE[key]), key


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_words(code: str) -> None:
    assert code in ENGLISH


def test_every_state_and_step_has_words() -> None:
    assert {step.value for step in Step} <= {state.value for state in State}
    for state in set(State) - {State.DONE}:
        assert f"step.{state.value}" in ENGLISH


def test_every_text_is_used_and_every_one_used_is_there() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in PAGE.glob("*.py")
        if path.stem not in ("english", "chinese")
    )
    said = set(re.findall(r"""(?:words\w*|_WORDS)[\[(]f?["']([\w.]+)["']""", source))
    assert said <= set(ENGLISH)
    families = ("reason.", "warning.", "step.", "fact.", "live.", "enhance.", "model.task.")
    unused = {key for key in ENGLISH if key not in said and not key.startswith(families)}
    assert {key for key in unused if f'"{key}"' not in source} == set()


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh", "zh-CN"),
        ("ZH-tw", "zh-CN"),
        ("zh;q=0.5", "zh-CN"),
        ("en-GB,zh;q=0.9", "en"),
        ("de-DE,zh;q=0.9", "en"),
        ("zha", "en"),
        ("*", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_first_language_of_a_browser_decides(header: str | None, language: str) -> None:
    assert texts.words_for(header)["language"] == language


def test_what_has_no_words_is_told_all_the_same() -> None:
    assert texts.reason_words(ENGLISH, "brand_new") == ENGLISH["reason.internal"]
    assert texts.warning_words(ENGLISH, "brand_new") == "brand_new"
