"""The page's HTML, read by an HTML parser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.serving.page import formats
from pipeline.serving.page.chinese import CHINESE
from pipeline.serving.page.english import ENGLISH
from pipeline.serving.page.list_html import announcements, download_links, session_list
from pipeline.serving.page.live_html import controls, live
from pipeline.serving.page.live_stream import Stream
from pipeline.serving.page.result_html import failure, hue, result, scores_table, timeline
from pipeline.serving.page.session import Entry, Session, Span, State
from pipeline.serving.page.texts import Words
from tests.pipeline.serving.page.stand_in import LABELS, prediction

EVIL = "</h2><img src=x onerror=alert(1)>\"'&.wav"
VOID = {"img", "input", "br", "col"}


class Read(HTMLParser):
    """Elements in order, and the texts; fails on elements that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def entry(name: str = "a.wav", **changed: object) -> Entry:
    made = Entry(
        1, name, Path("/up/1.wav"), State.DONE, prediction=prediction(name),
        windows=[Span(0, 2, "jazz", 0.75), Span(2, 3.5, "rock", 0.5)],
        sound=Path("/up/1.wav"), picture=Path("/up/1.png"),
    )  # fmt: skip
    for field, value in changed.items():
        setattr(made, field, value)
    return made


def shown(made: Entry | None, words: Words = ENGLISH) -> Read:
    return Read(result(made, LABELS, 0.3, words))


def test_scores_come_highest_first_with_bars_of_their_length() -> None:
    read = Read(scores_table([0.125, 0.5, 0.375], ["pop", "jazz", "rock"], ENGLISH, best="jazz"))
    cells = [text for text in read.texts if text not in ("Label", "Score")]
    assert cells[1:] == ["jazz", "50.0%", "rock", "37.5%", "pop", "12.5%"]
    assert [bar["style"] for bar in read.all("i")] == [
        "--share: 0.5000", "--share: 0.3750", "--share: 0.1250",
    ]  # fmt: skip
    assert [row.get("class") for row in read.all("tr")] == [None, "best", "", ""]
    assert len(read.all("caption")) == 1


def test_labels_have_colours_of_their_own_and_unknown_has_none() -> None:
    colours = {hue(label, LABELS) for label in LABELS}
    assert len(colours) == len(LABELS)
    assert hue("unknown", LABELS) == "--hue: 0; --chroma: 0"


def test_windows_are_buttons_of_which_one_is_in_the_tab_order() -> None:
    windows = [Span(0, 2, "jazz", 0.75), Span(2, 63.5, "unknown", 0.25)]
    buttons = Read(timeline(windows, LABELS, ENGLISH)).all("button")
    assert [(button["data-start"], button["data-end"]) for button in buttons] == [
        ("0.000", "2.000"), ("2.000", "63.500"),
    ]  # fmt: skip
    assert [button["tabindex"] for button in buttons] == ["0", "-1"]
    assert [button["aria-label"] for button in buttons] == [
        "0:00 to 0:02: jazz, 75.0%. Play from here.",
        "0:02 to 1:03.5: unknown, 25.0%. Play from here.",
    ]


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_a_result_has_everything(words: Words) -> None:
    read = shown(entry(prediction=prediction("a.wav", decode_warnings=["clipped"])), words)
    assert read.all("audio")[0]["src"] == "gradio_api/file=/up/1.wav"
    assert read.all("img")[0]["src"] == "gradio_api/file=/up/1.png"
    assert "a.wav" in (read.all("img")[0]["alt"] or "")
    for text in ("jazz", "pcm_s16", "44100 Hz", "WAV", "soundfile", "model0123", "frontend0123"):
        assert text in read.texts
    assert words["warning.clipped"] in read.texts
    assert [name for name, _ in read.elements if name in ("h2", "h3")] == ["h2"] + ["h3"] * 5


def test_an_unknown_track_says_why() -> None:
    row = prediction("a.wav") | {"label": "unknown", "confidence": 0.25}
    row["scores"] = [0.25, 0.15, 0.15, 0.15, 0.15, 0.15]
    read = shown(entry(prediction=row))
    assert (
        "The best score, 25.0% for blues, is under this model's threshold of 30.0%." in read.texts
    )


def test_what_is_from_the_cache_says_so() -> None:
    assert ENGLISH["cached"] in shown(entry(from_cache=True)).texts
    assert ENGLISH["cached"] not in shown(entry()).texts


@pytest.mark.parametrize("words", [ENGLISH, CHINESE])
def test_nothing_that_comes_from_elsewhere_becomes_markup(words: Words) -> None:
    columns = ("container", "codec", "decoder", "content_sha256", "model_fingerprint")
    row = prediction(EVIL) | dict.fromkeys(columns, EVIL)
    row |= {"label": EVIL, "decode_warnings": [EVIL]}
    labels = [EVIL, *LABELS[1:]]
    made = entry(EVIL, prediction=row, windows=[Span(0, 1, EVIL, 0.5)], sound=Path("/up/" + EVIL))
    failed = entry(EVIL, state=State.FAILED, reason=EVIL, message=EVIL, number=2)
    waits = entry(EVIL, state=State.WAITING, number=3)
    session = Session(entries=[made, failed, waits], ends=[made, failed])
    stream = Stream(label=EVIL, scores=[0.1] * 6, reason=EVIL, message=EVIL)
    stream.take([{"kind": "segment", "start_s": 0, "end_s": 1, "label": EVIL, "confidence": 1.0}])
    for html in (
        result(made, labels, 0.3, words),
        result(failed, labels, 0.3, words),
        result(waits, labels, 0.3, words),
        session_list(session, labels, words),
        announcements(session, words),
        live(stream, labels, words),
        failure(EVIL, EVIL, words),
        download_links([Path("/up") / EVIL], 1, words),
    ):
        read = Read(html)
        assert all(image["src"] != "x" for image in read.all("img"))
        for _, attributes in read.elements:
            assert not [name for name in attributes if name.startswith("on")]
            assert all("<" not in (value or "") or name in ("alt", "aria-label", "src", "download")
                       for name, value in attributes.items())  # fmt: skip


def test_the_list_tells_how_far_each_file_is() -> None:
    session = Session(
        entries=[
            entry("1", number=1, state=State.WAITING),
            entry("2", number=2, state=State.DECODING, seconds=12.4),
            entry("3", number=3, state=State.LABELLING),
            entry("4", number=4),
            entry("5", number=5, state=State.FAILED, reason="too_short", message="0.01 s"),
        ],
        selected=4,
    )
    read = Read(session_list(session, LABELS, ENGLISH))
    assert [text for text in read.texts if text.strip()][1:] == [
        "5", "failed", f" {ENGLISH['reason.too_short']}", "4", "jazz", " 70.0%",
        "3", "labelling", "2", "decoding, 12 s so far", "1", "waiting",
    ]  # fmt: skip
    assert [(button["data-entry"], button["aria-pressed"]) for button in read.all("button")] == [
        ("5", "false"), ("4", "true"),
    ]  # fmt: skip


def test_an_empty_list_says_so() -> None:
    assert ENGLISH["session.none"] in Read(session_list(Session(), LABELS, ENGLISH)).texts
    assert ENGLISH["downloads.none"] in Read(download_links([], 1, ENGLISH)).texts
    assert ENGLISH["result.none"] in shown(None).texts


def test_a_stream_shows_the_running_label_its_scores_and_its_segments() -> None:
    stream = Stream(heard_seconds=62.9, answered=7)
    stream.take(
        [
            {"kind": "second", "label": "rock", "confidence": 0.75, "scores": [0.25, 0.75]},
            {"kind": "segment", "start_s": 0, "end_s": 1.5, "label": "pop", "confidence": 0.5},
            {"kind": "gap", "start_s": 1.5, "end_s": 2, "label": None, "confidence": None},
            {"kind": "end", "start_s": 2, "end_s": 2, "label": None, "confidence": None},
            {"reason": "silence", "message": "10 s"},
        ]
    )
    read = Read(live(stream, ("pop", "rock"), ENGLISH))
    assert read.elements[0][1]["data-heard"] == "7"
    texts = [text for text in read.texts if text.strip()]
    assert texts[:2] == [ENGLISH["reason.silence"], "Details: 10 s"]
    assert texts[2:6] == ["Now", "rock", "confidence 75.0%", "1:02 heard"]
    assert texts[texts.index("Stretches of one label each") + 5 :] == [
        "0:01.5", "0:02", "gap", "0:00", "0:01.5", "pop", "50.0%",
    ]  # fmt: skip
    above = controls(["0", "<b>1"], ENGLISH)
    assert [button["data-live"] for button in Read(above).all("button")] == ["start", "stop"]
    assert "It knows: 0, &lt;b&gt;1." in above


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0, "0:00"), (0.04, "0:00"), (2, "0:02"), (2.5, "0:02.5"), (59.96, "1:00"),
        (62.5, "1:02.5"), (3599.99, "1:00:00"), (3600, "1:00:00"), (36_000.5, "10:00:00.5"),
    ],
)  # fmt: skip
def test_times(seconds: float, written: str) -> None:
    assert formats.clock(seconds) == written


@pytest.mark.parametrize(
    ("size_bytes", "written"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"),
     (3 << 40, "3072 GiB")],
)  # fmt: skip
def test_sizes(size_bytes: int, written: str) -> None:
    assert formats.size(size_bytes) == written


def test_addresses_keep_every_character_of_a_path() -> None:
    assert formats.address(Path("/a b/ü?#%.wav")) == "gradio_api/file=/a%20b/%C3%BC%3F%23%25.wav"
