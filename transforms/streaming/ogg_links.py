"""A chained Ogg stream, link by link: radio stations begin a new one with each title.

ffmpeg refuses a link whose rate or channels differ, and keeps padding between those that agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

MARK = b"OggS"
_HEADER_BYTES = 27
_FIRST_PAGE = 0x02  # the flag of a page that begins a stream
_SCAN_BYTES = 4_096


class Link:
    """One link, as an object that can be read; without ``seek``."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def read(self, size: int) -> bytes:
        return self._pages.read(size)


class Pages:
    """Passes the bytes of Ogg pages on, and stops where a link ends.

    Parameters
    ----------
    read : callable
        Gives at most so many bytes, none at the end.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._source = read
        self._held = b""
        self._left = 0  # bytes of the page that is being passed on, or of what is no page
        self._in_link = False  # a page has been seen that begins no stream
        self._ended = False

    def links(self) -> Iterator[Link]:
        """The links, each to be read to its end before the next."""
        while not self._ended:
            self._in_link = False
            yield Link(self)
            while self.read(_SCAN_BYTES):  # what its reader left
                pass

    def read(self, size: int) -> bytes:
        if not self._left and not self._next_page():
            return b""
        size = min(size, self._left)
        if self._held:
            part, self._held = self._held[:size], self._held[size:]
        else:
            part = self._source(size)
            self._ended = not part
        self._left -= len(part)
        return part

    def _next_page(self) -> bool:
        """Find how far to pass on; False at the end of the link, or of all."""
        header = self._peek(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(MARK):
            self._left = self._junk()
            self._ended = not self._left
            return not self._ended
        if header[5] & _FIRST_PAGE:
            if self._in_link:
                return False
        else:
            self._in_link = True
        segments = header[_HEADER_BYTES - 1]
        table = self._peek(_HEADER_BYTES + segments)[_HEADER_BYTES:]
        self._left = _HEADER_BYTES + segments + sum(table)
        return True

    def _junk(self) -> int:
        """How many bytes lie in front of the next page, as far as can be seen."""
        found = self._held.find(MARK, 1)
        if found >= 0:
            return found
        return max(min(1, len(self._held)), len(self._held) - len(MARK) + 1)

    def _peek(self, size: int) -> bytes:
        while len(self._held) < size and (part := self._source(size - len(self._held))):
            self._held += part
        return self._held[:size]
