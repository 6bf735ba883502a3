"""What all events of the page have in common."""

from __future__ import annotations

from typing import Any

import gradio as gr

from pipeline.serving.page.texts import Words, words_for

EVENT: dict[str, Any] = {
    # No limit of Gradio's: the service has a queue, and one visitor must not wait for another.
    "concurrency_limit": None,
    "trigger_mode": "multiple",
    "show_progress": "hidden",
    "api_visibility": "private",
}
"""Arguments of every event listener."""


def words_of(request: gr.Request) -> Words:
    """The words for whoever asks."""
    return words_for(request.headers.get("accept-language"))
