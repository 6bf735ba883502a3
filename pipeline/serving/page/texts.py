"""All words of the page, in English and in Chinese, and which of them a browser asks for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

from pipeline.serving.page.chinese import CHINESE
from pipeline.serving.page.english import ENGLISH

Words: TypeAlias = Mapping[str, str]

LANGUAGES: Mapping[str, Words] = MappingProxyType({"en": ENGLISH, "zh": CHINESE})
"""The words of each language, under its primary subtag."""

LOCALES = {"en": ENGLISH, "zh": CHINESE, "zh-CN": CHINESE, "zh-TW": CHINESE}
"""The same for Gradio, which has translations of its own under longer tags, too."""


def words_for(accept_language: str | None) -> Words:
    """Words in the language that a browser would rather have.

    Its first choice counts alone, as it does for the texts that Gradio translates in the browser.

    Parameters
    ----------
    accept_language : str or None
        The request's header ``Accept-Language``.
    """
    first = (accept_language or "").split(",")[0].split(";")[0].strip().lower()
    return LANGUAGES.get(first.split("-")[0], ENGLISH)


def reason_words(words: Words, code: str) -> str:
    """What a reason of ``transforms.errors.Reason`` or a ``Problem`` says, and what to do."""
    return words.get(f"reason.{code}", words["reason.internal"])


def warning_words(words: Words, code: str) -> str:
    """What a decode warning means; one that is not known speaks for itself."""
    return words.get(f"warning.{code}", code)
