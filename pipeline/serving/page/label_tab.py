"""The tab that labels files: what is handed in, its progress, its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from pipeline.serving.answers import Problem, Progress, RefusedError, Service
from pipeline.serving.page.downloads import write_downloads
from pipeline.serving.page.errors import sound_of, told_of_error
from pipeline.serving.page.events import EVENT, words_of
from pipeline.serving.page.list_html import announcements, download_links, session_list
from pipeline.serving.page.result_html import failure, result
from pipeline.serving.page.session import Entry, Session, State
from pipeline.serving.page.texts import Words
from pipeline.serving.page.uploads import Given, files_input, recorder_input
from pipeline.serving.uploads import local_upload

FILES_AT_ONCE = 4  # of one drop
BUSY_TRIES = 6
BUSY_WAIT_SECONDS = 15.0  # at most, between two tries
REDRAW_SECONDS = 0.2
_CHOOSING = "element.addEventListener('page-choose', (e) => trigger('select', e.detail));"


class LabelTab:
    """The event handlers of the tab.

    Parameters
    ----------
    service : Service
    folder : Path
        Of Gradio's files, under which each session gets one.
    """

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder
        self.labels = service.models[0].labels
        self._threshold = service.models[0].unknown_threshold

    def place(self, page: gr.Blocks, session: gr.State, words: gr.I18n) -> None:
        """Put the tab's components into the page and wire them."""
        files = files_input(words("files.label"), "multiple")
        with gr.Accordion(words("recorder.label"), open=False):
            recorder = recorder_input(words("recorder.label"))
        said = gr.HTML(elem_classes="for-screen-readers")
        listing = gr.HTML(js_on_load=_CHOOSING)
        clear = gr.Button(words("clear"), size="sm", elem_classes="clear")
        shown = gr.HTML()
        downloads = gr.HTML()
        everything = [listing, said, shown, downloads]
        # What a drop shows may overtake what a choice showed meanwhile: so each ends with a look.
        dropped = files.upload(self.drop, [files, session], [files, *everything], **EVENT)
        dropped.then(self.shown, session, everything, **EVENT)
        recorded = recorder.stop_recording(
            self.recorded, [recorder, session], [recorder, *everything], **EVENT
        )
        recorded.then(self.shown, session, everything, **EVENT)
        listing.select(self.select, session, everything, **EVENT)
        clear.click(self.clear, session, everything, **EVENT)
        page.load(self.shown, session, everything, **EVENT)

    async def drop(
        self, given: Sequence[Given], session: Session, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Label the files of one drop; yields [files, list, announcements, result, downloads]."""
        async for parts in self._work(list(given), session, words_of(request)):
            yield [None, *parts]

    async def recorded(
        self, path: str | None, session: Session, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Label a recording; yields [recorder, list, announcements, result, downloads]."""
        if path is None:
            return
        words = words_of(request)
        name = words["recording.name"].format(number=session.next_recording())
        async for parts in self._work([Given(name, Path(path))], session, words):
            yield [None, *parts]

    async def select(self, session: Session, event: gr.EventData, request: gr.Request) -> list[Any]:
        """Show the result of a chosen entry; gives [list, announcements, result, downloads]."""
        number = event._data.get("entry")
        if session.entry(number) is not None:
            session.select(number)
        return await self.shown(session, request)

    async def clear(self, session: Session, request: gr.Request) -> list[Any]:
        """Forget everything; gives [list, announcements, result, downloads]."""
        session.clear()
        return await self.shown(session, request)

    async def shown(self, session: Session, request: gr.Request) -> list[Any]:
        """The session as it is; gives [list, announcements, result, downloads]."""
        words = words_of(request)
        return await _View(self, session, words).drawn()

    async def _work(
        self, given: list[Given], session: Session, words: Words
    ) -> AsyncIterator[list[Any]]:
        entries = [session.add(*file, self._folder) for file in given]
        for entry in entries[self._service.limits.batch_files :]:
            entry.failed("too_many", "")
        session.follow()
        slots = asyncio.Semaphore(FILES_AT_ONCE)
        tasks = {asyncio.create_task(self._label(entry, session, slots)) for entry in entries}
        session.work |= tasks
        view = _View(self, session, words)
        try:
            yield await view.drawn()
            while not all(task.done() for task in tasks):
                await asyncio.wait(tasks, timeout=REDRAW_SECONDS, return_when=asyncio.ALL_COMPLETED)
                if view.is_old():
                    yield await view.drawn()
        finally:
            for task in tasks:
                task.cancel()
            session.work -= tasks

    async def _label(self, entry: Entry, session: Session, slots: asyncio.Semaphore) -> None:
        """Label one file; whatever is wrong with it becomes its failure."""
        async with slots:
            try:
                if entry.state is not State.FAILED:
                    await self._answer(entry, session)
            except Exception as error:
                entry.failed(*told_of_error(error))
            session.ended(entry)

    async def _answer(self, entry: Entry, session: Session) -> None:
        def told(progress: Progress) -> None:
            entry.state, entry.seconds = State(progress.step.value), progress.seconds
            session.version += 1

        limits = self._service.limits
        upload = await asyncio.to_thread(local_upload, entry.name, entry.file, limits)
        for tries_left in reversed(range(BUSY_TRIES)):
            try:
                labelled = await self._service.label(upload, picture=True, told=told)
                break
            except RefusedError as error:
                if error.problem is not Problem.BUSY or not tries_left:
                    raise
                entry.state = State.BUSY
                session.version += 1
                await asyncio.sleep(min(error.retry_after_seconds or 0, BUSY_WAIT_SECONDS))
        sound = await sound_of(self._service, upload, labelled.prediction["codec"])
        await asyncio.to_thread(entry.answered, labelled, sound)

    def result(self, session: Session, words: Words) -> str:
        """The result of the chosen entry."""
        entry = session.entry(session.selected)
        return result(entry, self.labels, self._threshold, words)

    async def downloads(self, session: Session, words: Words) -> str:
        """Links to all rows, which are written for it."""
        async with session.writing:  # or older rows may come last
            rows = [entry.prediction for entry in session.done]
            if not rows:
                return download_links([], session.version, words)
            folder = session.open_folder(self._folder)
            try:
                files = await asyncio.to_thread(write_downloads, rows, self.labels, folder)
            except Exception as error:  # must not end the work that is shown with it
                if session.folder is not folder:  # cleared meanwhile
                    return download_links([], session.version, words)
                return failure(*told_of_error(error), words)
        return download_links(files, session.version, words)


class _View:
    """What a visitor sees while a drop is worked on.

    Everything is sent each time: Gradio sends only what differs, and may lose an update that one
    without a value follows at once.
    """

    def __init__(self, tab: LabelTab, session: Session, words: Words) -> None:
        self._tab, self._session, self._words = tab, session, words
        self._version = -1  # of the session, when it was drawn
        self._shown: tuple[object, ...] = ()  # what the result depends on
        self._result = tab.result(session, words)
        self._rows = -1
        self._downloads = ""

    def is_old(self) -> bool:
        """Whether there is something new to be seen."""
        return self._version != self._session.version

    async def drawn(self) -> list[Any]:
        """The session as it is; [list, announcements, result, downloads]."""
        session, words = self._session, self._words
        self._version = session.version
        entry = session.entry(session.selected)
        shown = (session.selected, entry and entry.state, entry and entry.sound)
        if shown != self._shown:
            self._shown, self._result = shown, self._tab.result(session, words)
        rows = len(session.done)
        if rows != self._rows:
            self._rows, self._downloads = rows, await self._tab.downloads(session, words)
        return [
            session_list(session, self._tab.labels, words),
            announcements(session, words),
            self._result,
            self._downloads,
        ]
