"""The tab that enhances one file and plays it before and after."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from pipeline.serving.answers import Service
from pipeline.serving.page import formats
from pipeline.serving.page.errors import sound_of, told_of_error
from pipeline.serving.page.events import EVENT, words_of
from pipeline.serving.page.result_html import facts_list, failure, player, warnings_list
from pipeline.serving.page.session import Session, safe_stem, safe_suffix
from pipeline.serving.page.texts import Words
from pipeline.serving.page.uploads import Given, files_input
from pipeline.serving.uploads import local_upload


class EnhanceTab:
    """The event handler of the tab.

    Parameters
    ----------
    service : Service
    folder : Path
        Of Gradio's files, under which each session gets one.
    """

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder

    def place(self, page: gr.Blocks, session: gr.State, words: gr.I18n) -> None:
        """Put the tab's components into the page and wire them."""
        intro = gr.HTML()
        file = files_input(words("enhance.label"), "single")
        shown = gr.HTML()
        file.upload(self.drop, [file, session], [file, shown], **EVENT)
        page.load(self.shown, None, intro, **EVENT)

    async def shown(self, request: gr.Request) -> str:
        """What the tab is for."""
        words = words_of(request)
        return f"<h2>{words['tab.enhance']}</h2><p>{words['enhance.intro']}</p>"

    async def drop(
        self, given: Sequence[Given], session: Session, request: gr.Request
    ) -> AsyncIterator[list[Any]]:
        """Enhance a file; yields [file, result]."""
        words = words_of(request)
        for file in given[:1]:
            name = escape(file.name)
            working = words["enhance.working"].format(name=name)
            yield [None, _section(working, "")]
            work = asyncio.create_task(self._result(file, session, words))
            session.work.add(work)
            try:
                result = await work
            except Exception as error:
                result = failure(*told_of_error(error), words)
            finally:
                session.work.discard(work)
            yield [None, _section(words["enhance.of"].format(name=name), result)]

    async def _result(self, file: Given, session: Session, words: Words) -> str:
        folder = session.open_folder(self._folder) / f"enhance-{session.next_number()}"
        try:
            result = await self._enhanced(file, folder, words)
        except BaseException:  # a cancellation, too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        session.keep_enhanced(folder)
        return result

    async def _enhanced(self, file: Given, folder: Path, words: Words) -> str:
        given = folder / "given"  # apart: the visitor's name may be that of the other
        given.mkdir(parents=True)
        kept = given / f"before{safe_suffix(file.name)}"
        after = folder / f"{safe_stem(file.name)}.flac"  # a browser saves it under this name
        os.link(file.path, kept)
        upload = await asyncio.to_thread(local_upload, file.name, kept, self._service.limits)
        enhanced = await self._service.enhance(upload)
        await asyncio.to_thread(shutil.move, enhanced.path, after)
        before = await sound_of(self._service, upload, enhanced.row["codec"])
        return _result_html(enhanced.row, file.name, before, after, words)


def _section(heading: str, content: str) -> str:
    return f'<section class="result"><h2 role="status">{heading}</h2>{content}</section>'


def _result_html(
    row: Mapping[str, Any], name: str, before: Path | None, after: Path, words: Words
) -> str:
    players = "".join(
        f"<div><h3>{words[key]}</h3>{player(path, f'{words[key]}: {name}', words)}</div>"
        for key, path in (("enhance.before", before), ("enhance.after", after))
    )
    figures = {
        words["enhance.rms_before"]: f"{row['rms_before']:.4f}",
        words["enhance.rms_after"]: f"{row['rms_after']:.4f}",
        words["enhance.dc_offset"]: ", ".join(f"{offset:+.5f}" for offset in row["dc_offset"]),
        words["enhance.clipped"]: row["clipped_samples"],
        words["enhance.method"]: row["method"],
        words["fact.duration"]: formats.clock(row["duration_s"]),
        words["fact.rate"]: f"{row['sample_rate_hz']} Hz",
        words["fact.channels"]: row["channels"],
    }
    return (
        f'{warnings_list(row["decode_warnings"], words)}<div class="players">{players}</div>'
        f'<p><a class="button" download href="{escape(formats.address(after))}">'
        f"{words['enhance.download']}</a></p>"
        f"<h3>{words['facts.heading']}</h3>{facts_list(figures)}"
    )
