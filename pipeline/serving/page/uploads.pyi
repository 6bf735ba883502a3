"""Gradio's components for files, closed against what only a forged request asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.data_classes import FileData, ListFiles


class Given(NamedTuple):
    """A file as a visitor handed it in."""

    name: str  # of the visitor's, with every character; Gradio's own path has lost some
    path: Path


class _LocalOnly:
    """Refuses addresses, which Gradio would fetch on behalf of whoever sends them."""

    async def async_move_resource_to_block_cache(
        self, url_or_file_path: str | Path | None
    ) -> str | None:
        if url_or_file_path is not None and "://" in str(url_or_file_path):
            raise gr.Error("files are uploaded, not fetched", print_exception=False)
        return await super().async_move_resource_to_block_cache(  # type: ignore[misc,no-any-return]
            url_or_file_path
        )


def _given(file: FileData) -> Given:
    path = Path(file.path)
    return Given(Path(file.orig_name or path.name).name, path)

from gradio.events import Dependency

class Files(_LocalOnly, gr.File):
    """A place to drop files at; its value is a list of :class:`Given`."""

    is_template = True  # the browser's part is that of the class above

    def preprocess(self, payload: ListFiles | FileData | None) -> Any:
        if payload is None:
            return []
        return [_given(file) for file in (payload if isinstance(payload, ListFiles) else [payload])]

    def get_block_name(self) -> str:
        return "file"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class Recorder(_LocalOnly, gr.Audio):
    """A microphone whose recordings are files; its value is the path, or None."""

    def get_block_name(self) -> str:
        return "audio"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component