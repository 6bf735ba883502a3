"""The page put together, and into a FastAPI application."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from weakref import WeakValueDictionary

import gradio as gr
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from pipeline.serving.answers import ServedModel, Service
from pipeline.serving.page import formats
from pipeline.serving.page.english import ENGLISH
from pipeline.serving.page.enhance_tab import EnhanceTab
from pipeline.serving.page.events import EVENT, words_of
from pipeline.serving.page.guard import OnlyThePage
from pipeline.serving.page.label_tab import LabelTab
from pipeline.serving.page.live_tab import LiveTab
from pipeline.serving.page.result_html import facts_list
from pipeline.serving.page.session import Session
from pipeline.serving.page.texts import LOCALES, Words

_ASSETS = Path(__file__).parent / "assets"
_ASSETS_ROUTE = "/page-assets"
_SWEEP_SECONDS = 60
_UPLOAD_SECONDS = 300  # what was uploaded and not taken over by a session lives this long
_HEAD = f'<script defer src="{_ASSETS_ROUTE}/page.js"></script>'
_WORDS = gr.I18n(**LOCALES)


def mount_page(app: FastAPI, service: Service, temporary: Path) -> None:
    """Put the page at the root of an application, behind the routes that it has already.

    Parameters
    ----------
    app : FastAPI
    service : Service
    temporary : Path
        A folder of the page's own for what visitors hand in. It is emptied as sessions end and
        when the application stops.
    """
    # Where no event loop runs, Gradio makes several and closes none. The caller may have one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, _mount(app, service, temporary)).result()


async def _mount(app: FastAPI, service: Service, temporary: Path) -> None:
    page = build_page(service, temporary)
    app.mount(_ASSETS_ROUTE, StaticFiles(directory=_ASSETS))
    app.add_middleware(OnlyThePage)
    gr.mount_gradio_app(
        app, page, "/",
        max_file_size=service.limits.upload_bytes,
        theme=_theme(), css_paths=[_ASSETS / "page.css"], head=_HEAD, i18n=_WORDS,
        footer_links=[], run_history=False, show_error=False, ssr_mode=False,
        enable_monitoring=False, mcp_server=False, pwa=False,
    )  # fmt: skip
    page.has_launched = True  # or Gradio lets a forged request name any file of this machine


def build_page(service: Service, temporary: Path) -> gr.Blocks:
    """The page, of the tabs that the service has models for.

    Parameters
    ----------
    service : Service
    temporary : Path
        See :func:`mount_page`. The environment's GRADIO_TEMP_DIR is set to it.
    """
    temporary.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(temporary)  # read as components are made
    tasks = {model.task: model for model in reversed(service.models)}
    page = gr.Blocks(
        analytics_enabled=False,
        title=ENGLISH["title"],
        delete_cache=(_SWEEP_SECONDS, _UPLOAD_SECONDS),
    )
    with page:
        session = gr.State(Session())
        head = gr.HTML(elem_id="page-head")
        with gr.Tabs():
            with gr.Tab(_WORDS("tab.label")):
                LabelTab(service, temporary).place(page, session, _WORDS)
            if "follow" in tasks:
                with gr.Tab(_WORDS("tab.live")):
                    LiveTab(service, tasks["follow"]).place(page)
            if "enhance" in tasks:
                with gr.Tab(_WORDS("tab.enhance")):
                    EnhanceTab(service, temporary).place(page, session, _WORDS)
        foot = gr.HTML(elem_id="page-foot")
        _Visits(service).watch(page, session, head, foot)
    return page


class _Visits:
    """Who is here: a session that leaves takes its work and its files along."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._sessions: WeakValueDictionary[str, Session] = WeakValueDictionary()

    def watch(self, page: gr.Blocks, session: gr.State, head: gr.HTML, foot: gr.HTML) -> None:
        page.load(self.came, session, [head, foot], **EVENT)
        page.unload(self.left)

    async def came(self, session: Session, request: gr.Request) -> list[str]:
        """Take note of a visitor; gives [head, foot]."""
        if request.session_hash is not None:
            self._sessions[request.session_hash] = session
        words = words_of(request)
        return [_head(self._service, words), _foot(self._service.models, words)]

    async def left(self, request: gr.Request) -> None:
        """Forget a visitor."""
        session = self._sessions.pop(request.session_hash or "", None)
        if session is not None:
            session.clear()


def _head(service: Service, words: Words) -> str:
    limits = words["files.limits"].format(
        count=service.limits.batch_files,
        size=formats.size(service.limits.upload_bytes),
        minutes=f"{service.limits.audio_seconds / 60:.0f}",
    )
    return (
        f'<div data-language="{words["language"]}" data-title="{words["title"]}">'
        f"<h1>{words['title']}</h1><p>{words['intro']} {limits}</p></div>"
    )


def _foot(models: Sequence[ServedModel], words: Words) -> str:
    items = "".join(
        f"<li><h3>{escape(model.name)}</h3>{_model_facts(model, words)}</li>" for model in models
    )
    return f"<details><summary>{words['models.heading']}</summary><ul>{items}</ul></details>"


def _model_facts(model: ServedModel, words: Words) -> str:
    return f"<p>{words[f'model.task.{model.task}']}</p>" + facts_list(
        {
            words["fact.model"]: model.model_fingerprint,
            words["fact.front_end"]: model.front_end_fingerprint or "–",
        }
    )


def _theme() -> gr.themes.Base:
    """Gradio's own, with fonts of the visitor's machine: nothing is fetched from elsewhere."""
    theme = gr.themes.Default(
        primary_hue="indigo",
        font=["system-ui", "Segoe UI", "Noto Sans", "Noto Sans CJK SC", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return theme.set(  # Gradio's are too faint to be read easily
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        color_accent="*primary_600",
    )
