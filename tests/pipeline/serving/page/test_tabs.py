"""What the tabs' events give, without Gradio and a browser."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import gradio as gr
import pytest
from gradio.data_classes import FileData, ListFiles

from pipeline.serving.admission import Admission
from pipeline.serving.answers import Limits, RefusedError, Upload
from pipeline.serving.labelling import LabelService
from pipeline.serving.metrics import Metrics
from pipeline.serving.page import label_tab
from pipeline.serving.page.english import ENGLISH
from pipeline.serving.page.enhance_tab import EnhanceTab
from pipeline.serving.page.label_tab import LabelTab
from pipeline.serving.page.session import Session, State
from pipeline.serving.page.uploads import Given, files_input
from pipeline.serving.site import AdmittedService
from tests.pipeline.serving.page.stand_in import StandIn, wav
from transforms.errors import StageError

Out = TypeVar("Out")

REQUEST = cast(gr.Request, SimpleNamespace(headers={}))


def given(folder: Path, *names: str, seconds: float = 1.0) -> list[Given]:
    files = []
    for number, name in enumerate(names):
        path = folder / f"{number}.given"
        path.write_bytes(wav(seconds))
        files.append(Given(name, path))
    return files


def run(work: Coroutine[Any, Any, Out]) -> Out:
    """In a thread: the browser of other tests has a loop that runs in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result(timeout=30)


async def last_of(steps: AsyncIterator[list[Any]]) -> list[Any]:
    return [step async for step in steps][-1]


def dropped(tab: LabelTab | EnhanceTab, files: Sequence[Given], session: Session) -> list[Any]:
    return run(last_of(tab.drop(files, session, REQUEST)))


def test_a_result_without_its_sound_is_a_result(tmp_path: Path) -> None:
    session = Session()
    shown = dropped(LabelTab(StandIn(), tmp_path), given(tmp_path, "mute rock.wav"), session)
    assert [(entry.state, entry.sound) for entry in session.entries] == [(State.DONE, None)]
    assert "<audio" not in shown[3]
    assert ENGLISH["sound.none"] in shown[3]
    assert 'data-start="0.000"' in shown[3]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "no space"), ValueError("a row of another schema")]
)
def test_downloads_that_cannot_be_written_end_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(label_tab, "write_downloads", fail)
    session = Session()
    files = given(tmp_path, *(f"{number}.wav" for number in range(6)))
    shown = dropped(LabelTab(StandIn(), tmp_path), files, session)
    assert [entry.state for entry in session.entries] == [State.DONE] * 6
    assert ENGLISH["reason.internal"] in shown[4]


def test_the_downloads_of_drops_at_once_have_all_rows(tmp_path: Path) -> None:
    session, tab = Session(), LabelTab(StandIn(), tmp_path)

    async def drop_twice() -> None:
        drops = (given(tmp_path, *(f"{drop} {n}.wav" for n in range(6))) for drop in "ab")
        await asyncio.gather(*(last_of(tab.drop(files, session, REQUEST)) for files in drops))

    run(drop_twice())
    assert session.folder is not None
    text = (session.folder / "labels.json").read_text(encoding="utf-8")
    assert sorted(re.findall(r'"uri":\s*"(\w) \d.wav"', text)) == ["a"] * 6 + ["b"] * 6


@pytest.mark.parametrize("name", ["before.flac", "song.wav"])
def test_before_plays_what_was_given(tmp_path: Path, name: str) -> None:
    files = given(tmp_path, name)
    _, html = dropped(EnhanceTab(StandIn(), tmp_path), files, Session())
    before, after = (
        Path(unquote(source.partition("file=")[2])) for source in re.findall(r'src="([^"]+)"', html)
    )
    assert before.read_bytes() == files[0].path.read_bytes()
    assert after.read_bytes()[:4] == b"fLaC"


def test_an_enhanced_file_without_its_sound_before_has_that_after(tmp_path: Path) -> None:
    _, html = dropped(EnhanceTab(StandIn(), tmp_path), given(tmp_path, "mute.wav"), Session())
    assert html.count("<audio") == 1
    assert ENGLISH["sound.none"] in html


def test_what_could_not_be_enhanced_leaves_no_files(tmp_path: Path) -> None:
    session = Session()
    _, html = dropped(EnhanceTab(StandIn(), tmp_path), given(tmp_path, "broken.wav"), session)
    assert ENGLISH["reason.corrupt"] in html
    assert session.folder is not None
    assert list(session.folder.iterdir()) == []


def test_names_are_shown_as_the_api_shows_them(tmp_path: Path) -> None:
    names = ["a\x1b[31m\nb\u202e.wav", "x" * 999 + ".wav", "\x00"]
    files = [FileData(path=str(tmp_path / "0"), orig_name=name) for name in names]
    read = files_input("", "multiple").preprocess(ListFiles(root=files))
    assert [file.name for file in read] == ["a[31m b.wav", "x" * 255, "unnamed"]


def test_a_copy_to_play_needs_no_admission_of_its_own(tmp_path: Path) -> None:
    admission = Admission(Limits(in_work=1))
    service = AdmittedService(cast(LabelService, StandIn()), admission, Metrics())
    upload = Upload("a.wav", tmp_path / "a.wav", "", 0)

    async def while_full() -> Path:
        with admission.enter():
            return await service.playable(upload, "pcm_s16")

    assert run(while_full()) == upload.path


def test_what_fails_on_the_page_is_counted_but_not_what_has_to_wait(tmp_path: Path) -> None:
    admission, metrics = Admission(Limits(in_work=1)), Metrics()
    service = AdmittedService(cast(LabelService, StandIn()), admission, metrics)
    upload = Upload("broken.wav", tmp_path / "broken.wav", "", 0)

    async def while_full() -> None:
        with admission.enter():
            await service.label(upload)

    with pytest.raises(RefusedError):
        run(while_full())
    for work in (service.label, service.enhance):
        with pytest.raises(StageError):
            run(work(upload))
    counted = {
        sample.labels["reason"]: sample.value
        for sample in metrics.errors.collect()[0].samples
        if sample.name.endswith("_total")
    }
    assert counted == {"not_audio": 1.0, "corrupt": 1.0}
