"""A visit to the page in a real browser, whichever service answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, FilePayload, Locator, Page, Request, expect

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


class Visit:
    """A visitor with a browser of their own.

    Parameters
    ----------
    browser : Browser
    url : str
    script : str
        Runs in the page before its own.
    options
        Of the browser's context: locale, viewport, color_scheme…
    """

    def __init__(self, browser: Browser, url: str, *, script: str = "", **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(**{"locale": "en-US"} | options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.context.add_init_script(script)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requested: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(url)
        # All that the page draws as it comes up: before that it may take the focus away.
        for part in ("h1", "input[type=file]", "[role=log]", "h2", "#page-foot details"):
            expect(self.page.locator(part).first).to_be_attached()

    def __enter__(self) -> Visit:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.context.close()
        if error is None:
            assert self.errors == [], self.errors
            assert self.elsewhere == []

    def _console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _request(self, request: Request) -> None:
        self.requested.append(request.url)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that went to other hosts."""
        own = (self.url, self.url.replace("http", "ws", 1), "data:", "blob:")
        return [url for url in self.requested if not url.startswith(own)]

    def drop(self, files: Mapping[str, bytes], tab: int = 0) -> None:
        """Hand files in, at the first or second place for files."""
        payloads = [
            FilePayload(name=name, mimeType="audio/wav", buffer=content)
            for name, content in files.items()
        ]
        self.page.locator("input[type=file]").nth(tab).set_input_files(payloads)

    def row(self, name: str) -> Locator:
        """The list's row of a file."""
        exact = self.page.locator(".name").get_by_text(name, exact=True)
        return self.page.locator(".files li").filter(has=exact)

    @property
    def result(self) -> Locator:
        """The result that is shown in the tab that is open."""
        return self.page.locator(".result").locator("visible=true")

    def open_tab(self, number: int) -> None:
        """Open a tab by its place."""
        self.page.get_by_role("tab").nth(number).click()

    @property
    def playing(self) -> dict[str, Any]:
        """The state of the player in the open tab's result."""
        found: dict[str, Any] = self.result.locator("audio").first.evaluate(
            "(a) => ({at: a.currentTime, paused: a.paused, duration: a.duration,"
            " error: a.error && a.error.message})"
        )
        return found
