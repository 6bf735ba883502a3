"""The publisher as a person starts it: its calls, its lines, its statuses, and its signals."""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
import soundfile as sf

from pipeline import publish
from pipeline.publish_arguments import default_id, parse_options
from tests import radio
from tests.audio_files import noise, sine, write_soundfile
from tests.radio import Radio, wait_for
from transforms.streaming.blocks import Block, decode_block

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def wav(tmp_path) -> Path:
    return write_soundfile(tmp_path / "a song.wav", noise(1.1), 44_100, "WAV", "PCM_16")


@pytest.fixture(scope="module")
def mp3(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    return write_soundfile(path, sine(2.0), 44_100, "MP3").read_bytes()


def blocks(folder: Path, stream_id: str) -> list[Block]:
    return [decode_block(path.read_bytes()) for path in sorted(folder.glob(f"{stream_id}/*"))]


def sound(folder: Path, stream_id: str) -> bytes:
    return b"".join(block.payload for block in blocks(folder, stream_id))


def pcm(path: Path) -> bytes:
    return sf.read(path, dtype="int16")[0].tobytes()


def command(*options: object) -> list[str]:
    return [sys.executable, "-m", "pipeline.publish", *map(str, options)]


def started(*options: object, **kinds) -> subprocess.Popen:
    return subprocess.Popen(
        command(*options), cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True, text=False,
        **kinds,
    )  # fmt: skip


def test_a_file(tmp_path, wav, capsys):
    before_us = time.time_ns() // 1_000
    assert publish.main([f"--source={wav}", f"--to={tmp_path / 'out'}"]) == 0
    found = blocks(tmp_path / "out", "a-song")
    assert sound(tmp_path / "out", "a-song") == pcm(wav)
    assert [block.last for block in found] == [False] * 4 + [True]
    assert before_us <= found[0].session <= time.time_ns() // 1_000
    assert capsys.readouterr().err == "a-song: 1.1 s in 5 blocks, ended\n"


def test_a_publisher_that_starts_anew_begins_a_new_session(tmp_path, wav):
    for _ in range(2):
        assert publish.main([f"--source={wav}", f"--to={tmp_path}", "--progress=none"]) == 0
    first, second = sorted({block.session for block in blocks(tmp_path, "a-song")})
    assert first < second


def test_progress(tmp_path, wav, capsys, monkeypatch):
    monkeypatch.setattr(publish, "_PROGRESS_SECONDS", 0.3)
    assert publish.main([f"--source={wav}", f"--to={tmp_path}", "--real_time"]) == 0
    first, *_, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"a-song: 0\.[25]\d* s in [12] blocks, 0\.\d s behind", first)
    assert last == "a-song: 1.1 s in 5 blocks, ended"


def test_copies_and_the_rest_of_the_options(tmp_path, wav):
    options = "--copies=3 --session=7 --event_time=2026-01-31T20:00:00+01:00 --seconds=0.5"
    options += " --block_seconds=0.1 --encoding=pcm_f32le --sample_rate_hz=8000 --channels=1"
    assert publish.main([f"--source={wav}", f"--to={tmp_path / 'out'}", *options.split()]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a-song-00", "a-song-01", "a-song-02"]
    found = blocks(tmp_path / "out", "a-song-02")
    time_us = round(1e6 * dt.datetime(2026, 1, 31, 19, tzinfo=dt.timezone.utc).timestamp())
    assert [block.event_time_us - time_us for block in found[:3]] == [0, 100_000, 200_000]
    first = found[0]
    assert (first.session, first.encoding, first.sample_rate_hz) == (7, "pcm_f32le", 8_000)
    assert (first.channels, first.frames) == (1, 800)
    assert sum(block.frames for block in found) == 4_000


def test_one_bad_source_does_not_stop_the_others(tmp_path, wav, mp3, capsys):
    text = tmp_path / "text.txt"
    text.write_text("no sound\n" * 99)
    routes = {"/live": radio.endless(mp3), "/list": radio.whole(b"#EXTM3U\nfile:///etc/passwd\n")}
    with Radio(routes) as station:
        sources = [wav, tmp_path / "none.wav", text, tmp_path,
                   station.url("/live"), station.url("/none"), station.url("/list")]  # fmt: skip
        arguments = [f"--source={source}" for source in sources]
        out = tmp_path / "out"
        status = publish.main([*arguments, f"--to={out}", "--progress=none", "--seconds=2"])
    assert status == 1
    lines = sorted(capsys.readouterr().err.splitlines())
    expected = {
        f"error: {tmp_path}: ": "is a folder; give --source once for each file",
        f"error: {tmp_path / 'none.wav'}: ": "no such file; check the path",
        f"error: {text}: ": "is not audio",
        f"error: {station.url('/none')}: ": "the server answers 404",
        f"error: {station.url('/list')}: ": "is a playlist, which is not followed",
    }
    assert len(lines) == len(expected)
    for start, remedy in expected.items():
        assert [line for line in lines if line.startswith(start) and remedy in line]
    assert sound(out, "a-song") == pcm(wav)
    live = blocks(out, "127.0.0.1-live")
    assert sum(block.frames for block in live) == 88_200
    assert live[-1].last


def test_a_full_disk_is_told_once(tmp_path, wav, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert publish.main([f"--source={wav}", f"--to={tmp_path}", "--progress=none"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line


def test_standard_input(tmp_path, wav):
    done = subprocess.run(
        command("--source=-", f"--to={tmp_path / 'out'}"),
        cwd=ROOT, input=wav.read_bytes(), stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"stdin: 1.1 s in 5 blocks, ended\n")
    assert sound(tmp_path / "out", "stdin") == pcm(wav)


def test_a_file_as_standard_input(tmp_path, wav):
    with wav.open("rb") as file:
        done = subprocess.run(
            command("--source=-", f"--to={tmp_path / 'out'}", "--stream_id=x"),
            cwd=ROOT, stdin=file, stderr=subprocess.PIPE, timeout=60,
        )  # fmt: skip
    assert done.returncode == 0
    assert sound(tmp_path / "out", "x") == pcm(wav)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_streams(tmp_path, wav, mp3, number):
    out = tmp_path / "out"
    with Radio({"/live": radio.endless(mp3, 20_000)}) as station:
        process = started(
            "--source=-", f"--source={wav}", "--real_time", f"--source={station.url('/live')}",
            "--stream_id=in", "--stream_id=file", "--stream_id=live", f"--to={out}",
            stdin=subprocess.PIPE,
        )  # fmt: skip
        process.stdin.write(wav.read_bytes())
        process.stdin.flush()  # and stays open
        wait_for(lambda: all(len(blocks(out, name)) > 1 for name in ("in", "file", "live")))
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0, told
    assert b"error" not in told
    for name in ("in", "file", "live"):
        assert [block.last for block in blocks(out, name)].index(True) == len(blocks(out, name)) - 1
    assert pcm(wav).startswith(sound(out, "in"))


def test_help_answers_at_once():
    program = "import sys, pipeline.publish_arguments as p; p.build_parser().format_help()"
    program += "\nimport pipeline.publish\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()).isdisjoint(
        {"torch", "apache_beam", "numpy", "av", "confluent_kafka"}
    )


WRONG = [
    ("--source=rtmp://x/y", "rtmp:// is not followed; give a path, -, http:// or https://"),
    ("--source=file:///etc/passwd", "file:// is not followed"),
    ("--source=", "is empty"),
    ("--source=http://", "is no address"),
    ("--source=http://[::", "is no address"),
    ("--source=http://h:x/", "is no address"),
    ("--source=ß", "no id can be made of ß; give --stream_id"),
    ("--source=b/a.wav", "two streams would be a; give each a --stream_id"),
    ("--source=- --source=-", "--source=- can be given only once"),
    ("--source=b.wav --copies=2", "--copies takes one --source, not 2"),
    ("--source=b.wav --stream_id=x", "1 --stream_id for 2 --source"),
    ("--stream_id=a/b", "take letters, digits"),
    ("--to=s3://bucket", "give kafka://HOST:PORT/TOPIC, or a folder"),
    ("--to=kafka://host", "write kafka://HOST:PORT/TOPIC"),
    ("--block_seconds=0", "positive float"),
    ("--block_seconds=nan", "positive float"),
    ("--seconds=x", "positive number"),
    ("--seconds=-1", "positive number"),
    ("--sample_rate_hz=7", "rate from 1000 to 384000"),
    ("--session=-1", "number from 0 on"),
    ("--event_time=yesterday", "write 2026-01-31T20:00:00+01:00"),
    ("--event_time=2026-01-31T20:00:00", "with a time zone"),
    ("--unheard_of", "unrecognized"),
]


@pytest.mark.parametrize(("options", "remedy"), WRONG, ids=[options for options, _ in WRONG])
def test_wrong_calls(tmp_path, capsys, options, remedy):
    try:
        status = publish.main(["--source=a.wav", f"--to={tmp_path / 'out'}", *options.split()])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert remedy in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("music/A Song (live).flac", "A-Song-live"),
        ("-", "stdin"),
        ("https://me:secret@Radio.example:8000/live/high.mp3?key=1", "radio.example-live-high.mp3"),
        ("http://radio.example/", "radio.example"),
        ("x" * 300, "x" * 128),
        (".hidden", "hidden"),
    ],
)
def test_ids(source, expected):
    assert default_id(source) == expected
    options = parse_options([f"--source={source}", "--to=x"])
    assert options.stream_ids == ((expected,),)


def test_ids_of_many_copies():
    options = parse_options([f"--source={'x' * 200}", "--to=x", "--copies=200"])
    (ids,) = options.stream_ids
    assert (len(set(ids)), ids[0], max(map(len, ids))) == (200, "x" * 124 + "-000", 128)


def test_seconds_are_what_was_written():
    assert parse_options(["--source=a", "--to=x", "--seconds=0.3"]).seconds == Fraction(3, 10)
