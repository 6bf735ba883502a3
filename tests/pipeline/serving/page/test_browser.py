"""The page in a real browser, over canned answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

pytest.importorskip("playwright.sync_api", reason="needs Playwright")

from playwright.sync_api import Browser, expect

from tests.pipeline.serving.page.stand_in import LABELS, StandIn, wav
from tests.pipeline.serving.page.visits import PATIENCE_MS, Visit

pytestmark = [pytest.mark.browser, pytest.mark.slow]

EVIL = "<img src=x onerror=\"document.body.dataset.evil='1'\">.wav"
PHONE = {"width": 375, "height": 700}


def until(holds: Callable[[], bool]) -> None:
    """Wait for what the browser does not show."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_of_one_drop_get_results_and_one_that_is_bad_stops_none(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"a rock.wav": wav(3.5), "broken.mp3": b"x", "b odd again pop.wav": wav(2)})
        expect(visit.row("a rock.wav")).to_contain_text("rock 70.0%")
        expect(visit.row("b odd again pop.wav")).to_contain_text("pop 70.0%")
        expect(visit.row("broken.mp3")).to_contain_text("This is no audio file")

        visit.row("a rock.wav").get_by_role("button").click()
        expect(visit.result.locator("h2")).to_have_text("Result: a rock.wav")
        expect(visit.result.locator(".verdict")).to_contain_text("confidence 70.0%")
        scores = visit.result.locator(".scores tbody tr")
        expect(scores).to_have_count(len(LABELS))
        assert scores.locator("th").all_inner_texts()[0] == "rock"
        shares = [float(text[:-1]) for text in scores.locator("td:last-child").all_inner_texts()]
        assert shares == [70.0, 10.0, 8.0, 6.0, 4.0, 2.0]
        expect(visit.result.locator(".timeline button")).to_have_count(4)
        expect(visit.result.locator(".facts")).to_contain_text("model0123")
        expect(visit.result.locator(".facts")).to_contain_text("frontend0123")
        picture = visit.result.get_by_role("img", name="Log-mel spectrogram of a rock.wav")
        expect(picture).to_have_js_property("naturalHeight", 224)
        expect(visit.result).not_to_contain_text("cache")

        visit.row("b odd again pop.wav").get_by_role("button").click()
        expect(visit.result).to_contain_text("answered from the cache")
        expect(visit.result.locator(".warnings")).to_contain_text("many samples are at full scale")
        visit.row("broken.mp3").get_by_role("button").click()
        expect(visit.result).to_contain_text("nothing recognises it")
    assert {upload.uri: upload.size_bytes for upload in service.uploads} == {
        "a rock.wav": len(wav(3.5)), "broken.mp3": 1, "b odd again pop.wav": len(wav(2)),
    }  # fmt: skip


def test_a_window_plays_from_its_start_by_mouse_and_by_keys(
    chromium: Browser, page_url: str
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"a.wav": wav(60)})
        windows = visit.result.locator(".timeline button")
        expect(windows).to_have_count(60)
        windows.nth(30).click()
        until(lambda: visit.playing["at"] > 30)
        assert visit.playing["at"] < 60
        assert not visit.playing["paused"]
        expect(visit.result.locator("[aria-current]")).to_have_count(1)

        windows.nth(0).focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
            visit.page.keyboard.press(key)
        expect(windows.nth(2)).to_be_focused()
        visit.page.keyboard.press("Enter")
        until(lambda: 2 <= visit.playing["at"] < 30)
        visit.page.keyboard.press("End")
        expect(windows.nth(59)).to_be_focused()


def test_a_result_without_its_sound_says_so_and_its_windows_play_nothing(
    chromium: Browser, page_url: str
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"mute.wav": wav(2)})
        expect(visit.result).to_contain_text("There is no sound to play.")
        visit.result.locator(".timeline button").nth(1).click()
        expect(visit.result.locator("audio")).to_have_count(0)


def test_progress_is_shown_while_files_are_worked_on_a_few_at_once(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({f"slow {number}.wav": wav(1) for number in range(6)})
        states = visit.page.locator(".files .state")
        expect(states.filter(has_text="decoding, 12 s so far")).to_have_count(4)
        expect(states.filter(has_text="waiting")).to_have_count(2)
        visit.drop({"another.wav": wav(1)})  # a second drop does not wait for the first
        expect(visit.row("another.wav")).to_contain_text("jazz 70.0%")
        service.is_open = True
        expect(states.filter(has_text="jazz 70.0%")).to_have_count(7)
        expect(visit.page.get_by_role("log").locator("p")).to_have_count(7)
    assert service.most_in_work <= 5


def test_what_is_refused_for_now_is_tried_again(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"busy.wav": wav(1)})
        expect(visit.row("busy.wav")).to_contain_text("the server is busy")
        expect(visit.row("busy.wav")).to_contain_text("jazz 70.0%")
    assert len(service.uploads) == 3


def test_more_files_than_a_drop_may_have_and_files_that_are_too_large_are_told(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({f"{number}.wav": wav(1) for number in range(7)})
        expect(visit.row("6.wav")).to_contain_text("More files came")
        expect(visit.row("5.wav")).to_contain_text("jazz")
        visit.drop({"large.wav": bytes(service.limits.upload_bytes + 1)})
        expect(visit.page.get_by_test_id("toast-body")).to_contain_text("4")
        expect(visit.row("large.wav")).to_have_count(0)
        visit.errors.clear()  # Gradio writes of it to the console, too
    assert len(service.uploads) == 6


def test_the_list_is_a_history_that_can_be_cleared(
    chromium: Browser, page_url: str, page_folder: Path, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"first pop.wav": wav(1)})
        expect(visit.result.locator("h2")).to_have_text("Result: first pop.wav")
        visit.drop({"second rock.wav": wav(2)})
        expect(visit.result.locator("h2")).to_have_text("Result: second rock.wav")
        visit.row("first pop.wav").get_by_role("button").click()
        expect(visit.result.locator("h2")).to_have_text("Result: first pop.wav")
        expect(visit.result.locator(".verdict strong")).to_have_text("pop")
        until(lambda: visit.playing["duration"] == 1)
        expect(visit.row("first pop.wav").get_by_role("button")).to_have_attribute(
            "aria-pressed", "true"
        )
        kept = service.uploads[0].path
        assert kept.exists()
        visit.page.get_by_role("button", name="Clear the list").click()
        expect(visit.page.get_by_text("No files yet.")).to_be_visible()
        expect(visit.page.locator(".downloads")).to_have_count(0)
        assert not kept.exists()


def test_two_sessions_never_see_each_other(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url) as one, Visit(chromium, page_url) as two:
        one.drop({"mine pop.wav": wav(1)})
        two.drop({"yours rock.wav": wav(1)})
        expect(one.row("mine pop.wav")).to_contain_text("pop")
        expect(two.row("yours rock.wav")).to_contain_text("rock")
        expect(one.page.locator(".files li")).to_have_count(1)
        expect(two.page.locator(".files li")).to_have_count(1)
        one.page.get_by_role("button", name="Clear the list").click()
        expect(one.page.locator(".files li")).to_have_count(0)
        expect(two.result.locator("h2")).to_have_text("Result: yours rock.wav")


def test_a_visitor_who_leaves_takes_work_and_files_along(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"done.wav": wav(1), "slow.wav": wav(1)})
        expect(visit.row("done.wav")).to_contain_text("jazz")
        expect(visit.row("slow.wav")).to_contain_text("decoding")
        folder = service.uploads[0].path.parent
        assert len(list(folder.iterdir())) >= 2
    until(lambda: service.cancelled == 1)
    until(lambda: not folder.exists())


def test_downloads_are_the_rows_of_the_session(
    chromium: Browser, page_url: str, tmp_path: Path
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"one pop.wav": wav(1), "broken.wav": b"x"})
        expect(visit.row("one pop.wav")).to_contain_text("pop")
        visit.drop({"two rock.wav": wav(2)})
        expect(visit.row("two rock.wav")).to_contain_text("rock")
        for name in ("labels.json", "labels.parquet"):
            with visit.page.expect_download() as download:
                visit.page.get_by_role("link", name=name).click()
            assert download.value.suggested_filename == name
            download.value.save_as(tmp_path / name)
    table = pq.read_table(tmp_path / "labels.parquet")
    assert json.loads(table.schema.metadata[b"labels"]) == list(LABELS)
    assert table.column("uri").to_pylist() == ["one pop.wav", "two rock.wav"]
    assert table.column("duration_s").to_pylist() == [1.0, 2.0]
    rows = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert [(row["uri"], row["label"]) for row in rows] == [
        ("one pop.wav", "pop"), ("two rock.wav", "rock"),
    ]  # fmt: skip


def test_names_never_become_markup(chromium: Browser, page_url: str, service: StandIn) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({EVIL: wav(1)})
        expect(visit.row(EVIL)).to_contain_text("jazz")
        expect(visit.result.locator("h2")).to_have_text(f"Result: {EVIL}")
        visit.open_tab(2)
        visit.drop({EVIL: wav(1)}, tab=1)
        expect(visit.result.locator("h2")).to_have_text(f"Enhanced: {EVIL}")
        assert visit.page.locator('img[src="x"]').count() == 0
        assert visit.page.evaluate("document.body.dataset.evil") is None
    assert service.uploads[0].uri == EVIL


def test_a_chinese_browser_gets_a_chinese_page(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url, locale="zh-CN") as visit:
        expect(visit.page).to_have_title("曲库标签")
        assert visit.page.evaluate("document.documentElement.lang") == "zh-CN"
        assert visit.page.get_by_role("tab").all_inner_texts() == ["标注文件", "实时", "降噪"]
        visit.drop({"a.wav": wav(1), "broken.wav": b"x"})
        expect(visit.row("a.wav")).to_contain_text("jazz 70.0%")
        expect(visit.row("broken.wav")).to_contain_text("无法识别为音频文件")
        expect(visit.result.locator("h3").first).to_have_text("全部得分")
        expect(visit.page.get_by_role("button", name="清空列表")).to_be_visible()
        words = visit.page.locator("main").inner_text()
    for english in ("Result", "Windows", "Facts", "Download", "Drop", "Record", "Clear"):
        assert english not in words


def test_another_language_gets_english(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url, locale="fi-FI") as visit:
        expect(visit.page).to_have_title("Catalog Labels")
        assert visit.page.evaluate("document.documentElement.lang") == "en"
        assert visit.page.get_by_role("tab").first.inner_text() == "Label files"


CONTRAST = """(element) => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let ground = element;
  const opaque = (e) => (channels(getComputedStyle(e).backgroundColor)[3] ?? 1) > 0;
  while (!opaque(ground) && ground.parentElement) ground = ground.parentElement;
  const pair = [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
  const [low, high] = pair.map(channels).map(light).sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(chromium: Browser, page_url: str, scheme: str) -> None:
    with Visit(chromium, page_url, color_scheme=scheme) as visit:
        visit.drop({"odd again.wav": wav(2), "broken.wav": b"x"})
        expect(visit.row("broken.wav")).to_contain_text("failed")
        expect(visit.result.locator(".warnings")).to_be_visible()
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(", "))) < 200) == (scheme == "dark")
        for part in (
            "h1", "h2", "h3", ".note", ".verdict strong", ".files .name", ".files .state",
            ".scores th", ".scores td:last-child", ".scores caption", ".timeline b",
            ".timeline span", "dt", "dd", ".warnings li", "a.button", "[role=tab]",
        ):  # fmt: skip
            element = visit.page.locator(part).locator("visible=true").first
            assert element.evaluate(CONTRAST) >= 4.5, part


def test_a_phone_scrolls_in_one_direction_only(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url, viewport=PHONE) as visit:
        name = "a name without a place to break it " + "x" * 80 + ".wav"
        visit.drop({name: wav(30), "broken.wav": b"x"})
        expect(visit.row(name)).to_contain_text("jazz")
        visit.row(name).get_by_role("button").click()
        expect(visit.result.locator(".timeline button")).to_have_count(30)
        visit.page.get_by_role("button", name="Or record something").click()
        for tab in (1, 2, 0):
            visit.open_tab(tab)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_the_keyboard_is_enough(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url) as visit:
        keys = visit.page.keyboard

        def tab_to(element: str) -> None:
            for _ in range(60):
                if visit.page.evaluate("(e) => document.activeElement.matches(e)", element):
                    assert visit.page.evaluate(
                        "getComputedStyle(document.activeElement).outlineStyle"
                    ) in ("solid", "auto")
                    return
                keys.press("Tab")
            raise AssertionError(f"the Tab key does not come to {element}")

        tab_to("button[aria-label*='upload']")
        with visit.page.expect_file_chooser() as chooser:
            keys.press("Enter")
        chooser.value.set_files([{"name": "a.wav", "mimeType": "audio/wav", "buffer": wav(20)}])
        expect(visit.result.locator(".timeline button")).to_have_count(20)
        tab_to("[data-entry]")
        keys.press("Enter")
        tab_to("[data-start]")
        for _ in range(10):
            keys.press("ArrowRight")
        keys.press(" ")
        until(lambda: visit.playing["at"] >= 10)
        keys.press("Tab")
        assert not visit.page.evaluate("document.activeElement.matches('[data-start]')")
        tab_to("a[download$=parquet]")
        keys.press("Shift+Tab")
        assert visit.page.evaluate("document.activeElement.matches('a[download$=json]')")


def test_headings_come_in_order_and_controls_have_names(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url) as visit:
        visit.drop({"a.wav": wav(2)})
        expect(visit.result.locator(".timeline")).to_be_visible()
        for tab in (0, 1, 2):
            visit.open_tab(tab)
            shown = visit.page.locator(":is(h1, h2, h3, h4)").locator("visible=true")
            levels = [
                int(name[1]) for name in shown.evaluate_all("(all) => all.map(e => e.tagName)")
            ]
            assert levels[0] == 1
            assert levels.count(1) == 1
            assert all(after <= before + 1 for before, after in pairwise(levels))
            tree = visit.page.locator("body").aria_snapshot()
            for role in ("button", "link", "tab", "img", "combobox", "textbox"):
                nameless = [
                    line
                    for line in tree.splitlines()
                    if line.strip() in (f"- {role}", f"- {role}:")
                ]
                assert role == "img" or not nameless, nameless


def test_a_pasted_file_is_labelled(chromium: Browser, page_url: str) -> None:
    with Visit(chromium, page_url) as visit:
        visit.page.evaluate(
            """(bytes) => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "pasted.wav", {type: "audio/wav"}));
              document.body.dispatchEvent(
                new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
            }""",
            list(wav(1)),
        )
        expect(visit.row("pasted.wav")).to_contain_text("jazz")


COUNT_MICROPHONES = """
window.asked = 0;
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (wanted) => { window.asked++; return ask(wanted); };
"""


def test_a_recording_is_labelled_and_no_microphone_is_asked_for_before(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url, script=COUNT_MICROPHONES) as visit:
        visit.page.get_by_role("button", name="Or record something").click()
        record = visit.page.get_by_role("button", name="Record", exact=True)
        expect(record).to_be_visible()
        assert visit.page.evaluate("window.asked") == 0
        for number in (1, 2):
            record.click()
            stop = visit.page.get_by_role("button", name="Stop", exact=True)
            expect(stop).to_be_visible()
            visit.page.wait_for_timeout(1_000)  # of sound
            stop.click()
            expect(visit.row(f"recording {number}.wav")).to_contain_text("jazz 70.0%")
        assert visit.page.evaluate("window.asked") == 2
    assert [upload.uri for upload in service.uploads] == ["recording 1.wav", "recording 2.wav"]


RECORD_CAPTURE = """
window.captured = [];
window.AudioWorkletNode = class extends AudioWorkletNode {
  constructor(...given) {
    super(...given);
    this.port.addEventListener("message", (event) => window.captured.push(...event.data));
  }
};
"""


def test_the_microphone_is_followed_without_a_gap(
    chromium: Browser, page_url: str, service: StandIn
) -> None:
    with Visit(chromium, page_url, script=RECORD_CAPTURE) as visit:
        visit.open_tab(1)
        visit.page.get_by_role("button", name="Start listening").click()
        expect(visit.page.locator(".live-status")).to_have_text("Listening…")
        expect(visit.page.locator(".live .verdict strong")).to_have_text("loud")
        until(lambda: sum(map(len, service.heard)) > 4 * 48_000)
        visit.page.get_by_role("button", name="Stop", exact=True).click()
        expect(visit.page.locator(".live-status")).to_have_text("Stopped.")
        segments = visit.page.locator(".segments tbody tr")
        expect(segments).to_have_count(1)
        expect(segments).to_contain_text("loud")

        assert len(service.heard[-1]) == 0  # which ends a stream
        samples = np.concatenate(service.heard)[:, 0]
        captured = np.array(visit.page.evaluate("window.captured"), np.float32)
        assert len(samples) > 4 * 48_000
        assert np.array_equal(samples, captured[: len(samples)])

        service.reset()
        visit.page.get_by_role("button", name="Start listening").click()
        until(lambda: len(service.heard) > 1)
        expect(visit.page.locator(".segments")).to_have_count(0)  # a new stream
        visit.page.get_by_role("button", name="Stop", exact=True).click()
        expect(visit.page.locator(".live-status")).to_have_text("Stopped.")


def test_a_browser_without_a_microphone_is_told(chromium: Browser, page_url: str) -> None:
    denied = (
        "navigator.mediaDevices.getUserMedia = () =>"
        " Promise.reject(new DOMException('no', 'NotAllowedError'));"
    )
    with Visit(chromium, page_url, script=denied) as visit:
        visit.open_tab(1)
        visit.page.get_by_role("button", name="Start listening").click()
        expect(visit.page.locator(".live-status")).to_contain_text("gives no microphone")


def test_a_file_is_enhanced_and_plays_before_and_after(
    chromium: Browser, page_url: str, tmp_path: Path
) -> None:
    with Visit(chromium, page_url) as visit:
        visit.open_tab(2)
        visit.drop({"noisy.wav": wav(3)}, tab=1)
        expect(visit.result.locator("h2")).to_have_text("Enhanced: noisy.wav")
        players = visit.result.locator("audio")
        expect(players).to_have_count(2)
        for player in (players.nth(0), players.nth(1)):
            expect(player).to_have_js_property("duration", 3)
        for figure in ("0.2500", "0.0625", "+0.12500", "0:03"):
            expect(visit.result.locator(".facts")).to_contain_text(figure)
        with visit.page.expect_download() as download:
            visit.page.get_by_role("link", name="Download the FLAC file").click()
        assert download.value.suggested_filename == "noisy.flac"
        download.value.save_as(tmp_path / "after.flac")
        visit.drop({"broken.wav": b"x"}, tab=1)
        expect(visit.result).to_contain_text("The file is damaged")
    samples, rate = soundfile.read(tmp_path / "after.flac")
    assert (len(samples), rate) == (48_000, 16_000)
    assert np.abs(samples).max() == pytest.approx(0.15, abs=1e-3)
