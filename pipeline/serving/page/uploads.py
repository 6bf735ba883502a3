"""Gradio's components for files, closed against what only a forged request asks for.

They are changed one by one: of a subclass Gradio would write a stub beside the module. A handler
gives None to empty them, and never ``gr.update``, after which a session would have new ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import gradio as gr
from gradio.components.base import Component
from gradio.data_classes import FileData, ListFiles

from pipeline.serving.uploads import shown_name

_C = TypeVar("_C", bound=Component)


class Given(NamedTuple):
    """A file as a visitor handed it in."""

    name: str  # of the visitor's, as it may be shown; Gradio's own path has lost characters
    path: Path


def files_input(label: Any, count: Literal["single", "multiple"]) -> gr.File:
    """A place to drop files at; its value is a list of :class:`Given`."""
    component = gr.File(file_count=count, label=label, height=160)
    component.preprocess = _given  # type: ignore[method-assign,assignment]
    return _local_only(component)


def recorder_input(label: Any) -> gr.Audio:
    """A microphone whose recordings are files; its value is a path, or None."""
    component = gr.Audio(
        sources=["microphone"], type="filepath", label=label, show_label=False, buttons=[],
        editable=False,
    )  # fmt: skip
    return _local_only(component)


def _given(payload: ListFiles | FileData | None) -> list[Given]:
    if payload is None:
        return []
    files = payload.root if isinstance(payload, ListFiles) else [payload]
    return [
        Given(shown_name(Path(file.orig_name or file.path).name), Path(file.path)) for file in files
    ]


def _local_only(component: _C) -> _C:
    """Refuse addresses, which Gradio would fetch on behalf of whoever sends them."""
    move: Callable[[Any], Awaitable[str | None]] = component.async_move_resource_to_block_cache

    async def move_file(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("files are uploaded, not fetched", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_file  # type: ignore[method-assign,assignment]
    return component
