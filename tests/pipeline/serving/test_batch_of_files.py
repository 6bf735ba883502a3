"""The files of a batch when something goes wrong that is nobody's file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.serving.admission import Admission
from pipeline.serving.answers import Limits, Upload
from pipeline.serving.api import Api, Source
from pipeline.serving.deadlines import Deadline
from pipeline.serving.memory import MemoryWatch
from pipeline.serving.metrics import Metrics
from transforms.errors import Reason, StageError


class Refuser:
    limits = Limits()


def api(folder: Path) -> Api:
    service: Any = Refuser()
    return Api(service, Admission(Limits()), MemoryWatch(None), Metrics(), folder, (str(folder),))


def test_none_goes_on_when_the_request_has_failed(tmp_path):
    async def story() -> None:
        events: list[str] = []

        async def slow() -> Upload:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)  # what ends it takes its time
                events.append("ended")
            raise AssertionError

        async def broken() -> Upload:
            await asyncio.sleep(0.01)
            raise ZeroDivisionError

        sources = [Source("a", slow), Source("b", broken)]
        with pytest.raises(ZeroDivisionError):
            await api(tmp_path)._label_all(sources, Deadline(30))
        assert events == ["ended"]

    asyncio.run(story())


def test_a_pipe_is_no_regular_file(tmp_path):
    async def story() -> None:
        pipe = tmp_path / "a.wav"
        os.mkfifo(pipe)
        source = api(tmp_path)._by_uri(str(pipe), tmp_path / "copy")
        with pytest.raises(StageError) as caught:
            await source.find()
        assert caught.value.reason is Reason.UNREADABLE
        assert caught.value.message.endswith("a.wav: no regular file")

    asyncio.run(story())
