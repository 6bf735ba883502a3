"""The page over the real service with the shipped models, in a real browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.pipeline.serving.page.stand_in import wav
from tests.pipeline.serving.page.visits import PATIENCE_MS, Visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

STOP_SECONDS = 30


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """A pipeline.serve that is ready; ``args[-1]`` is its address."""
    command = [sys.executable, "-m", "pipeline.serve", "--port=0", "--cache=none"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "ready after" in line:
            break
    address = re.search(r"listening at (http://\S+),", "".join(said))
    assert address is not None, said
    process.args = [*command, f"{address[1]}/"]
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def url(server: subprocess.Popen[str]) -> str:
    address: str = server.args[-1]  # type: ignore[index,assignment]
    return address


def api_row(url: str, name: str, content: bytes) -> dict[str, Any]:
    """What the API says of the same bytes."""
    form = (
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--x--\r\n"
    )
    request = urllib.request.Request(
        f"{url}v1/labels", form, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with urllib.request.urlopen(request) as answer:
        row: dict[str, Any] = json.load(answer)["prediction"]
    return row


def test_the_page_shows_and_gives_what_the_api_answers(
    chromium: Browser, url: str, tmp_path: Path
) -> None:
    sound = wav(12, frequency_hz=330.0)
    with Visit(chromium, url) as visit:
        visit.drop({"tone.wav": sound, "notes.wav": b"no sound at all"})
        expect(visit.row("notes.wav")).to_contain_text("failed")
        row = api_row(url, "tone.wav", sound)
        expect(visit.row("tone.wav")).to_contain_text(row["label"])
        visit.row("tone.wav").click()
        expect(visit.result.locator("h2")).to_have_text("Result: tone.wav")
        windows = visit.result.locator(".timeline button, .windows button")
        expect(windows).to_have_count(row["window_count"])
        picture = visit.result.locator("img")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.naturalWidth") > 0
        windows.nth(1).click()
        visit.page.wait_for_function("document.querySelector('.result audio').currentTime >= 5")
        with visit.page.expect_download() as download:
            visit.page.get_by_role("link", name="labels.json").click()
        download.value.save_as(tmp_path / "labels.json")
    (told,) = json.loads((tmp_path / "labels.json").read_text())
    for column in set(row) - {"labelled_at"}:
        assert told[column] == row[column], column


def test_the_microphone_is_labelled(chromium: Browser, url: str) -> None:
    with Visit(chromium, url) as visit:
        visit.open_tab(1)
        visit.page.get_by_role("button", name="Start listening").click()
        expect(visit.page.locator(".live .verdict strong")).not_to_be_empty()
        visit.page.wait_for_timeout(3_000)
        visit.page.get_by_role("button", name="Stop", exact=True).click()
        expect(visit.page.locator(".live-status")).to_have_text("Stopped.")
        expect(visit.page.locator(".segments tbody tr").first).to_be_visible()


def test_a_file_is_enhanced(chromium: Browser, url: str) -> None:
    with Visit(chromium, url) as visit:
        visit.open_tab(2)
        visit.drop({"noisy.wav": wav(3)}, tab=1)
        expect(visit.result.locator("h2")).to_have_text("Enhanced: noisy.wav")
        for player in visit.result.locator("audio").all():
            expect(player).to_have_js_property("duration", 3)


def test_open_pages_do_not_keep_the_server_from_stopping(
    chromium: Browser, server: subprocess.Popen[str], url: str
) -> None:
    context = chromium.new_context()
    page = context.new_page()
    page.goto(url)
    expect(page.locator("h1")).to_be_visible(timeout=PATIENCE_MS)
    server.send_signal(signal.SIGTERM)
    _, said = server.communicate(timeout=STOP_SECONDS)
    context.close()
    assert server.returncode == 0, said
    assert "Traceback" not in said
