"""What a session keeps and forgets."""

from __future__ import annotations

import base64
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.serving.answers import Labelled, Problem, RefusedError
from pipeline.serving.page import session as session_module
from pipeline.serving.page.live_stream import piece_of
from pipeline.serving.page.session import (
    MAX_ENTRIES,
    Session,
    State,
    safe_stem,
    safe_suffix,
)
from tests.pipeline.serving.page.stand_in import prediction


@pytest.fixture
def given(tmp_path: Path) -> Path:
    file = tmp_path / "given.wav"
    file.write_bytes(b"sound")
    return file


def test_a_file_is_kept_in_a_folder_of_its_own_and_goes_with_the_session(
    given: Path, tmp_path: Path
) -> None:
    one, two = Session(), Session()
    entry = one.add("My Song.WAV", given, tmp_path)
    other = two.add("My Song.WAV", given, tmp_path)
    assert entry.file.name == "1.wav"
    assert entry.file.parent != other.file.parent
    given.unlink()  # as Gradio does after a while
    assert entry.file.read_bytes() == b"sound"
    folder = entry.file.parent
    one.clear()
    assert not folder.exists()
    assert other.file.read_bytes() == b"sound"
    assert one.add("b.wav", other.file, tmp_path).number == 2  # numbers do not come again


def test_a_file_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    entry = Session().add("a.wav", tmp_path / "gone", tmp_path)
    assert (entry.state, entry.reason) == (State.FAILED, "not_found")


def test_the_oldest_ended_entries_give_way(given: Path, tmp_path: Path) -> None:
    session = Session()
    entries = [session.add(f"{number}.wav", given, tmp_path) for number in range(MAX_ENTRIES)]
    assert len(session.entries) == MAX_ENTRIES
    session.add("one more.wav", given, tmp_path)
    assert len(session.entries) == MAX_ENTRIES + 1  # none has ended
    entries[0].failed("corrupt", "")
    session.add("and another.wav", given, tmp_path)
    assert len(session.entries) == MAX_ENTRIES + 1
    assert session.entry(1) is None
    assert not entries[0].file.exists()
    assert session.entry(2) is entries[1]


def test_one_that_still_runs_keeps_no_other(given: Path, tmp_path: Path) -> None:
    session = Session()
    running = session.add("slow.wav", given, tmp_path)
    for number in range(MAX_ENTRIES + 5):
        session.add(f"{number}.wav", given, tmp_path).failed("corrupt", "")
    assert len(session.entries) == MAX_ENTRIES
    assert session.entries[0] is running


def test_the_oldest_sounds_give_way_and_their_rows_stay(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "MAX_SOUND_BYTES", 20)  # one is 5, or 10 with a copy
    session = Session()
    running = session.add("slow.wav", given, tmp_path)
    entries = [session.add(f"{number}.wav", given, tmp_path) for number in range(3)]
    for entry in entries[:2]:
        copy_of_it = entry.file.with_name(f"{entry.file.name}-copy.flac")
        copy_of_it.write_bytes(b"sound")
        entry.answered(Labelled(prediction("a"), [], b"png", False), copy_of_it)
        session.ended(entry)
    first, second, third = entries  # 10 + 10 + 5 and the 5 of what runs
    assert first.sound is None
    assert second.sound is not None
    assert second.sound.exists()
    third.answered(Labelled(prediction("a"), [], b"png", False), third.file)
    session.ended(third)
    assert second.sound.exists()
    assert [entry.file.exists() for entry in (running, *entries)] == [True, False, True, True]
    assert first.picture is not None
    assert first.picture.exists()
    assert session.done == entries
    assert sum(path.name.endswith("-copy.flac") for path in first.file.parent.iterdir()) == 1


def test_a_result_is_shown_before_a_failure_and_a_choice_before_both(
    given: Path, tmp_path: Path
) -> None:
    session = Session()
    bad, good, late = (session.add(f"{n}.wav", given, tmp_path) for n in range(3))
    session.follow()
    bad.failed("corrupt", "")
    session.ended(bad)
    assert session.selected == bad.number
    for entry in (good, late):
        entry.answered(Labelled(prediction("a"), [], None, False), given)
        session.ended(entry)
    assert session.selected == good.number
    session.follow()
    session.select(bad.number)
    session.ended(late)
    assert session.selected == bad.number


def test_a_session_starts_empty_for_everyone(given: Path, tmp_path: Path) -> None:
    first = Session()  # which Gradio copies for each visitor
    one, two = copy.deepcopy(first), copy.deepcopy(first)
    one.add("a.wav", given, tmp_path)
    assert (first.entries, two.entries) == ([], [])
    assert two.add("b.wav", given, tmp_path).number == 1


def test_the_picture_goes_to_disk(given: Path, tmp_path: Path) -> None:
    entry = Session().add("a.wav", given, tmp_path)
    entry.answered(Labelled(prediction("a"), [], b"png", True), given)
    assert entry.picture is not None
    assert entry.picture.read_bytes() == b"png"
    assert entry.picture.suffix == ".png"


def test_a_picture_overwrites_no_sound(given: Path, tmp_path: Path) -> None:
    entry = Session().add("song.png", given, tmp_path)
    entry.answered(Labelled(prediction("a"), [], b"png", True), entry.file)
    assert entry.file.read_bytes() == given.read_bytes() == b"sound"


def test_the_newest_enhanced_file_alone_is_kept(given: Path, tmp_path: Path) -> None:
    session = Session()
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        session.keep_enhanced(folder)
    assert [folder.exists() for folder in folders] == [False, True]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.WAV", ".wav"), ("a.tar.gz", ".gz"), ("a", ".bin"), ("a.", ".bin"), (".wav", ".bin"),
        ("a.w av", ".bin"), ("a.wav\n", ".bin"), ("a./../b", ".bin"), ("a.verylongone", ".bin"),
    ],
)  # fmt: skip
def test_suffixes(name: str, suffix: str) -> None:
    assert safe_suffix(name) == suffix


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("My song (1).mp3", "My song (1)"), ("二.mp3", "二"), ("<b>.mp3", "_b_"), ("a;.mp3", "a_"),
        ("", "sound"), ("x" * 99 + ".mp3", "x" * 80),
    ],
)  # fmt: skip
def test_stems(name: str, stem: str) -> None:
    assert safe_stem(name) == stem


def sent(samples: np.ndarray, **changed: Any) -> dict[str, Any]:
    return {"samples": base64.b64encode(samples.tobytes()).decode(), "rate": 48_000} | changed


def test_a_piece_of_sound_is_read() -> None:
    samples = np.array([0.5, -1.0, 0.25], "<f4")
    piece = piece_of(sent(samples, first=True))
    assert piece.samples.tolist() == [[0.5], [-1.0], [0.25]]
    assert piece.samples.dtype == np.float32
    assert (piece.sample_rate_hz, piece.is_first, piece.is_last) == (48_000, True, False)
    assert piece_of(sent(np.zeros(0, "<f4"), last=True)).samples.shape == (0, 1)


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"samples": "AAAA", "rate": 48_000},  # three bytes
        {"samples": "?", "rate": 48_000},
        {"samples": 5, "rate": 48_000},
        sent(np.zeros(1, "<f4"), rate="48000"),
        sent(np.zeros(1, "<f4"), rate=999),
        sent(np.zeros(1, "<f4"), rate=384_001),
        sent(np.zeros(1, "<f4"), rate=float("nan")),
        sent(np.zeros(30_001, "<f4"), rate=1_000),
    ],
)
def test_what_is_no_piece_of_sound_is_refused(forged: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as refused:
        piece_of(forged)
    assert refused.value.problem is Problem.INVALID_REQUEST
