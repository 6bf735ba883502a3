"""Takes pictures of the page at desktop and phone width, light and dark, in both languages.

    python -m tests.pipeline.serving.page.screenshots FOLDER [--url=ADDRESS] [--file=FILE …]

Without an address of a running server it shows canned answers.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from tests.pipeline.serving.page.conftest import BROWSERS, make_app, running
from tests.pipeline.serving.page.stand_in import StandIn, wav
from tests.pipeline.serving.page.visits import Visit

SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 375, "height": 812}}
LOOKS = (("light", "en-US"), ("dark", "en-US"), ("light", "zh-CN"))
LISTEN_MS = 4_000


def canned_files() -> dict[str, bytes]:
    """Names by which the stand-in knows what to answer."""
    return {
        "Autumn leaves (jazz trio).wav": wav(12),
        "odd demo tape, rock.wav": wav(30),
        "notes.txt": b"no sound",
    }


def until_loaded(visit: Visit) -> None:
    """Wait for pictures and players."""
    visit.page.wait_for_function(
        "[...document.querySelectorAll('.result img')].every((i) => i.complete)"
        " && [...document.querySelectorAll('.result audio')].every((a) => a.readyState > 0)"
    )


def picture(
    browser: Browser,
    url: str,
    size: str,
    look: tuple[str, str],
    files: Mapping[str, bytes],
    to: Path,
) -> None:
    """Take the pictures of one width, colour scheme and language."""
    scheme, locale = look
    options = {"viewport": SIZES[size], "color_scheme": scheme, "locale": locale}
    name = f"{size}-{scheme}-{locale[:2]}"
    with Visit(browser, url, **options) as visit:
        visit.drop(files)
        for file in files:
            expect(visit.row(file).get_by_role("button")).to_be_visible()
        visit.row(next(iter(files))).get_by_role("button").click()
        expect(visit.result.locator("h2")).to_contain_text(next(iter(files)))
        until_loaded(visit)
        visit.page.screenshot(path=to / f"label-{name}.png", full_page=True)
        visit.open_tab(1)
        visit.page.locator("[data-live=start]").click()
        visit.page.wait_for_timeout(LISTEN_MS)
        visit.page.screenshot(path=to / f"live-{name}.png", full_page=True)
        visit.page.locator("[data-live=stop]").click()
        visit.open_tab(2)
        file = next(iter(files))
        visit.drop({file: files[file]}, tab=1)
        expect(visit.result.locator("audio")).to_have_count(2)
        until_loaded(visit)
        visit.page.screenshot(path=to / f"enhance-{name}.png", full_page=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--file", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    files = {path.name: path.read_bytes() for path in arguments.file} or canned_files()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = arguments.url
        if url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            url = stack.enter_context(running(make_app(StandIn(), folder / "uploads")))
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, BROWSERS))),
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
            ],
        )
        for size in SIZES:
            for look in LOOKS:
                picture(browser, url, size, look, files, arguments.folder)


if __name__ == "__main__":
    main()
