"""Files that are hard, or meant to harm, many at once: the server answers as a batch does."""

from __future__ import annotations

import json
import shutil
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile as sf

from pipeline.serving.answers import Problem
from tests.audio_files import noise, sine, write_pyav, write_soundfile, write_streamed_wav
from tests.catalog import Run, label
from tests.pipeline.processes import wait_until
from tests.pipeline.serving.served import (
    Served,
    check_problem,
    eventually_empty,
    serving,
)
from tests.test_hard_files import HARD, TABLE, agreed_s
from tests.test_hard_files import rows as hard_rows
from transforms.errors import Reason

pytestmark = [pytest.mark.slow, pytest.mark.fault]

CLIENTS = 6  # more than there are workers
OPTIONS = ("--precision=float32", "--decode_timeout_seconds=20", "--decode_memory_mib=512")
GROWTH_BYTES = 500 << 20  # some 90 MiB were seen
SAME = ("label", "confidence", "scores", "duration_s", "codec", "decode_warnings", "window_count")


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory) -> Iterator[Served]:
    with serving(
        tmp_path_factory.mktemp("served"),
        f"--model={tiny_checkpoint}",
        "--workers=2",
        "--max_audio_seconds=600",
        *OPTIONS,
    ) as served:
        yield served
        assert served.stop() == 0
        served.wait_until_alone()
        assert not any(served.temporary.iterdir())


@dataclass
class Bombarded:
    """What came of many files that were sent at once, and of good ones among them."""

    answers: dict[Path, httpx.Response]
    peak_bytes: float


def bombard(served: Served, paths: list[Path]) -> Bombarded:
    """Send files by several clients, and look at the server's memory meanwhile."""
    peak, is_over = [0.0], threading.Event()

    def look() -> None:
        while not is_over.wait(0.3):
            peak[0] = max(peak[0], served.metric("memory_bytes"))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as clients:
            answers = clients.map(lambda path: served.label(path.read_bytes(), path.name), paths)
            return Bombarded(dict(zip(paths, answers, strict=True)), peak[0])
    finally:
        is_over.set()
        watching.join()


def batch(folder: Path, checkpoint: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """The batch pipeline's outcome of files, by uri: a row of predictions or of failures."""
    manifest = folder / "all.jsonl"
    manifest.write_text("".join(json.dumps({"uri": str(path)}) + "\n" for path in paths))
    given = (f"--input={manifest}", f"--model={checkpoint}", "--progress=none", "--workers=2")
    run: Run = label(folder / "labels", *given, *OPTIONS)
    assert run.status == 0, run.stderr
    rows = [row for name in ("predictions", "failures") for row in run.rows(name)]
    assert len(rows) == len(paths)
    return {row["uri"]: row for row in rows}


def check_as_batch(answer: httpx.Response, row: Mapping[str, Any]) -> None:
    if "reason" in row:
        body = check_problem(answer, 422, row["reason"])
        assert body["reason"] in {reason.value for reason in Reason}
        return
    assert answer.status_code == 200, answer.text[:500]
    found = answer.json()["prediction"]
    assert {name: found[name] for name in SAME} == {name: row[name] for name in SAME}


def good_files(folder: Path, count: int) -> list[Path]:
    """Of different bytes, so that none comes out of the cache."""
    return [
        write_soundfile(
            folder / f"good{seed}.wav", noise(2.5, 22_050, 1, seed), 22_050, "WAV", "PCM_16"
        )
        for seed in range(count)
    ]


def check_unharmed(served: Served, before: dict[int, str], found: Bombarded, used: float) -> None:
    assert served.get("/health/ready").status_code == 200
    eventually_empty(served)
    wait_until(lambda: len(served.family()) == len(before), "as many processes as before")
    assert found.peak_bytes < used + GROWTH_BYTES
    assert not [path for path in served.temporary.glob("**/*") if path.is_file()]


@pytest.mark.skipif(not TABLE.is_file(), reason="no shared/data/hard beside this")
def test_hard_files_at_once(server, tiny_checkpoint, tmp_path):
    table = {HARD / row["path"]: row for row in hard_rows()}
    good = good_files(tmp_path, 40)
    paths = [path for pair in zip(table, good * 10, strict=False) for path in pair]
    paths = list(dict.fromkeys([*paths, *table, *good]))
    expected = batch(tmp_path, tiny_checkpoint, paths)
    before, used = server.family(), server.metric("memory_bytes")
    found = bombard(server, paths)
    for path, answer in found.answers.items():
        check_as_batch(answer, expected[str(path)])
        if path in table and answer.status_code == 200:
            assert agreed_s(table[path])[1], path
    assert {found.answers[path].status_code for path in good} == {200}
    check_unharmed(server, before, found, used)


def stating_days(folder: Path) -> Path:
    path = write_soundfile(folder / "days.flac", sine(1.0), 44_100, "FLAC", "PCM_16")
    content = bytearray(path.read_bytes())
    content[21:26] = bytes([content[21] | 0x0F, 255, 255, 255, 255])  # STREAMINFO's total samples
    path.write_bytes(content)
    return path


def nested(folder: Path) -> Path:
    """An MP4 of boxes within boxes."""
    inner = b""
    for _ in range(50_000):
        inner = struct.pack(">I4s", (len(inner) + 8) & 0xFFFFFFFF, b"moov")[:8] + inner[:400_000]
    path = folder / "nested.m4a"
    path.write_bytes(struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + inner)
    return path


def repeated(folder: Path, name: str, head: bytes, part: bytes, count: int) -> Path:
    path = folder / name
    path.write_bytes(head + part * count)
    return path


def bombs(folder: Path) -> list[Path]:
    """Files that state too much, have no end, or ask a decoder to open something else."""
    wav = write_streamed_wav(folder / "stated.wav", sine(1.0), 44_100, size=0xFFFF_FFFF)
    ogg = write_soundfile(folder / "o.ogg", sine(0.2), 44_100, "OGG", "VORBIS").read_bytes()
    mka = write_pyav(folder / "m.mka", sine(0.5), 44_100, "matroska", "ac3").read_bytes()
    (folder / "o.ogg").unlink()
    (folder / "m.mka").unlink()
    secret = folder / "secret.wav"
    shutil.copy(wav, secret)
    texts = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n",
        "web.m3u": "#EXTM3U\nhttp://127.0.0.1:1/a.mp3\n",
        "concat.txt": f"ffconcat version 1.0\nfile '{secret}'\n",
        "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5 RTP/AVP 0\n",
        "laughs.svg": '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>',
        "dash.mpd": f"<MPD><Period><BaseURL>file://{secret}</BaseURL></Period></MPD>",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    riff = b"RIFF\xff\xff\xff\xffWAVE"
    id3 = b"ID3\x04\x00\x00\x00\x00\x00\x00"
    return [
        stating_days(folder),
        wav,
        nested(folder),
        repeated(folder, "chained.ogg", b"", ogg, 200),
        repeated(folder, "pages.ogg", ogg, ogg[:58], 50_000),
        repeated(folder, "again.mka", b"", mka, 100),
        repeated(folder, "chunks.wav", riff, b"LIST\0\0\0\0", 300_000),
        repeated(folder, "tags.mp3", b"", id3, 300_000),
        repeated(folder, "huge_tag.mp3", b"ID3\x04\0\0\x7f\x7f\x7f\x7f", b"\0", 100_000),
        repeated(folder, "sync.mp3", b"", b"\xff\xfb\x90\x00", 300_000),
        repeated(folder, "sync.aac", b"", b"\xff\xf1\x50\x80\x00\x1f\xfc", 200_000),
        repeated(folder, "zeros.wav", b"", b"\0", 1_000_000),
        repeated(folder, "bomb.gz", b"", zlib.compress(bytes(10_000_000), wbits=31), 1),
        *(folder / name for name in texts),
    ]


def test_bombs_at_once(server, tiny_checkpoint, tmp_path):
    harmful, good = bombs(tmp_path), good_files(tmp_path, 30)
    expected = batch(tmp_path, tiny_checkpoint, [*harmful, *good])
    before, used = server.family(), server.metric("memory_bytes")
    mixed = [path for pair in zip(good, harmful * 2, strict=False) for path in pair]
    found = bombard(server, mixed + good)
    assert set(found.answers) == {*harmful, *good}
    for path, answer in found.answers.items():
        check_as_batch(answer, expected[str(path)])
    assert {found.answers[path].status_code for path in good} == {200}
    for name in ("list.m3u8", "web.m3u", "concat.txt", "session.sdp", "laughs.svg", "dash.mpd"):
        assert found.answers[tmp_path / name].status_code == 422, name
    check_unharmed(server, before, found, used)


def hours(folder: Path, count: int, channels: int, seed: int) -> Path:
    """Hours of silence in a file of a megabyte."""
    path = folder / f"hours{seed}.flac"
    minute = np.zeros((60 * 8_000, channels), np.int16)
    minute[seed] = 1
    with sf.SoundFile(path, "w", 8_000, channels, "PCM_16", format="FLAC") as file:
        for _ in range(60 * count):
            file.write(minute)
    return path


def test_hours_in_a_small_file(server, tmp_path):
    long = [hours(tmp_path, 5, channels, channels) for channels in (1, 2, 8)]
    assert max(path.stat().st_size for path in long) < 4 << 20
    good = good_files(tmp_path, 12)
    before, used = server.family(), server.metric("memory_bytes")
    found = bombard(server, [*long, *good])
    for path in long:
        answer = found.answers[path]
        check_problem(answer, 413, Problem.TOO_LONG.value)
    assert {found.answers[path].status_code for path in good} == {200}
    check_unharmed(server, before, found, used)
