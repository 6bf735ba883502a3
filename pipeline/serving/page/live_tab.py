"""The tab that follows the microphone.

The browser sends a piece of sound when the one before is answered, with all that came meanwhile:
so pieces come one at a time and in order, and a server that is slow gets longer ones. Gradio's own
streaming from the microphone drops what comes while it waits.
"""

from __future__ import annotations

import gradio as gr
import numpy as np

from pipeline.serving.answers import ServedModel, Service
from pipeline.serving.page.errors import told_of_error
from pipeline.serving.page.events import EVENT, words_of
from pipeline.serving.page.live_html import controls, live
from pipeline.serving.page.live_stream import Piece, Stream, piece_of

_HEARING = """
element.addEventListener('page-hear', (e) => trigger('hear', e.detail));
watch('value', () => element.dispatchEvent(new CustomEvent('page-heard', { bubbles: true })));
"""


class LiveTab:
    """The event handlers of the tab.

    Parameters
    ----------
    service : Service
    model : ServedModel
        Which follows streams.
    """

    def __init__(self, service: Service, model: ServedModel) -> None:
        self._service = service
        self._labels = model.labels

    def place(self, page: gr.Blocks) -> None:
        """Put the tab's component into the page and wire it."""
        stream = gr.State(None)
        above = gr.HTML()
        shown = gr.HTML(js_on_load=_HEARING)
        shown.hear(self.hear, stream, [shown, stream], **EVENT)
        page.load(self.shown, None, [above, shown], **EVENT)

    async def hear(
        self, stream: Stream | None, event: gr.EventData, request: gr.Request
    ) -> tuple[str, Stream]:
        """Hear one more piece; gives [what is shown, the stream]."""
        sent = event._data
        if stream is None or sent.get("first"):
            stream = Stream()
        try:
            await self._hear(stream, piece_of(sent))
        except Exception as error:
            _end(stream, *told_of_error(error))
        stream.answered += 1
        return live(stream, self._labels, words_of(request)), stream

    async def _hear(self, stream: Stream, piece: Piece) -> None:
        if len(piece.samples):
            await self._follow(stream, piece)
            stream.heard_seconds += len(piece.samples) / piece.sample_rate_hz
        if piece.is_last:
            await self._follow(stream, piece._replace(samples=np.zeros((0, 1), np.float32)))
            stream.state, stream.ended = None, True

    async def _follow(self, stream: Stream, piece: Piece) -> None:
        heard = await self._service.follow(
            stream.stream_id, piece.samples, piece.sample_rate_hz, stream.state
        )
        stream.state = heard.state
        stream.take(heard.rows)

    async def shown(self, request: gr.Request) -> list[str]:
        """The tab before anything was heard; gives [controls, what is shown]."""
        words = words_of(request)
        return [controls(self._labels, words), live(Stream(), self._labels, words)]


def _end(stream: Stream, reason: str, message: str) -> None:
    stream.reason, stream.message, stream.state, stream.ended = reason, message, None, True
