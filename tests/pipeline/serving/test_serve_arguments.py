"""The server's command line: what it means, and that a wrong call is said before any work."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.serve_arguments import API_KEY, build_parser, default_cache, parse_options
from pipeline.serving.answers import Limits
from tests.catalog import environment
from tests.pipeline.serving.served import refused

HEAVY = ("torch", "apache_beam", "transformers", "fastapi", "gradio", "uvicorn", "librosa")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(API_KEY, raising=False)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom pipeline.serve import main\n"
        "try: main(['--help'])\nexcept SystemExit as error: status = error.code\n"
        f"print('STATUS', status, 'HEAVY', sorted({set(HEAVY)} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "STATUS 0 HEAVY []"
    for option in options():
        assert option in done.stdout


def options() -> list[str]:
    return [name for action in build_parser()._actions for name in action.option_strings]


def test_every_option_has_a_word_of_help_or_a_unit():
    for action in build_parser()._actions:
        assert action.help or action.metavar, action.option_strings
        assert action.help is not argparse.SUPPRESS


def test_defaults():
    config = parse_options([])
    assert (config.host, config.port, config.page) == ("127.0.0.1", 7860, True)
    assert config.limits == Limits()
    assert (config.allowed_hosts, config.api_key, config.rate_per_second) == ((), None, None)
    assert (config.memory_limit_mib, config.batch_size) == (None, None)
    assert config.cache == default_cache()
    assert (config.front_end_changes, config.front_end_preset) == ({}, None)
    assert (config.features, config.embeddings, config.min_seconds) == (False, False, 0.1)
    assert config.workers >= 1


ARRIVING = [  # option, path in the configuration, value
    ("--host=::1", "host", "::1"),
    ("--port=0", "port", 0),
    ("--port=65535", "port", 65_535),
    ("--allowed_host=labels.example.org", "allowed_hosts", ("labels.example.org",)),
    ("--rate_limit=0.5", "rate_per_second", 0.5),
    ("--root=/music", "limits.roots", ("/music",)),
    ("--no-page", "page", False),
    ("--max_upload_mib=3", "limits.upload_bytes", 3 * 1024 * 1024),
    ("--max_files=4", "limits.batch_files", 4),
    ("--max_audio_seconds=5.5", "limits.audio_seconds", 5.5),
    ("--request_seconds=6.5", "limits.request_seconds", 6.5),
    ("--max_in_work=7", "limits.in_work", 7),
    ("--memory_limit_mib=800", "memory_limit_mib", 800),
    ("--min_free_disk_mib=20", "min_free_disk_mib", 20),
    ("--shutdown_seconds=9.5", "shutdown_seconds", 9.5),
    ("--min_seconds=0.25", "min_seconds", 0.25),
    ("--decode_timeout_seconds=1.5", "decode_timeout_seconds", 1.5),
    ("--decode_memory_mib=64", "decode_memory_mib", 64),
    ("--cache=/kept", "cache", Path("/kept")),
    ("--cache=none", "cache", None),
    ("--cache_mib=10", "cache_mib", 10),
    ("--cache_memory_mib=11", "cache_memory_mib", 11),
    ("--model=folder", "model", "folder"),
    ("--front_end=ccmusic", "front_end_preset", "ccmusic"),
    ("--precision=float32", "precision", "float32"),
    ("--device=cpu", "device", "cpu"),
    ("--batch_size=12", "batch_size", 12),
    ("--embeddings", "embeddings", True),
    ("--features", "features", True),
    ("--top_k=2", "top_k", 2),
    ("--batch_wait_ms=1.5", "batch_wait_ms", 1.5),
    ("--workers=3", "workers", 3),
    ("--live_model=none", "live_model", "none"),
    ("--enhancer=none", "enhancer", "none"),
    ("--windows=middle", "front_end_changes.windows", "middle"),
    ("--window_seconds=5", "front_end_changes.window_seconds", 5.0),
    ("--hop_seconds=2", "front_end_changes.hop_seconds", 2.0),
    ("--max_seconds=60", "front_end_changes.max_seconds", 60.0),
    ("--denoise=none", "front_end_changes.denoise", "none"),
    ("--trim_silence_db=40", "front_end_changes.trim_silence_db", 40.0),
    ("--no-remove_dc", "front_end_changes.remove_dc", False),
]


@pytest.mark.parametrize(("option", "path", "value"), ARRIVING, ids=[one[0] for one in ARRIVING])
def test_an_option_arrives(option, path, value):
    found = parse_options([option])
    for name in path.split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value and type(found) is type(value)


def test_what_may_be_repeated():
    config = parse_options(["--root=/a", "--root=s3://b/", "--allowed_host=c", "--allowed_host=d"])
    assert config.limits.roots == ("/a", "s3://b/")
    assert config.allowed_hosts == ("c", "d")


POSITIVE_NUMBERS = (
    "rate_limit max_audio_seconds request_seconds shutdown_seconds min_seconds "
    "decode_timeout_seconds batch_wait_ms window_seconds hop_seconds max_seconds"
).split()
POSITIVE_COUNTS = (
    "max_upload_mib max_files max_in_work memory_limit_mib min_free_disk_mib "
    "decode_memory_mib cache_mib cache_memory_mib batch_size top_k workers"
).split()
WRONG = [
    *(f"--{name}={value}" for name in POSITIVE_NUMBERS for value in ("0", "-1", "nan", "inf", "x")),
    *(f"--{name}={value}" for name in POSITIVE_COUNTS for value in ("0", "-1", "1.5", "", "x")),
    *(f"--port={value}" for value in ("-1", "65536", "http", "1.5", "")),
    *(f"--{name}=other" for name in ("front_end", "precision", "device")),
    "--pages",
    "--no-such-option",
    "--max_file=3",  # no abbreviation
    "song.mp3",
]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_value_is_a_wrong_call(wrong, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options([wrong])
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error:" in last
    assert wrong.partition("=")[0] in last


def test_the_key_of_a_file_and_of_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(" s3cret \nsecond line\n")
    monkeypatch.setenv(API_KEY, "other")
    assert parse_options([f"--api_key_file={file}"]).api_key == "s3cret"
    assert parse_options([]).api_key == "other"
    monkeypatch.setenv(API_KEY, "")
    assert parse_options([]).api_key is None


@pytest.mark.parametrize("content", [None, b"", b"\nkey\n", b"  \n", b"\xff\xfe"])
def test_no_key_in_the_file_is_a_wrong_call(content, tmp_path, capsys):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        parse_options([f"--api_key_file={file}"])
    assert caught.value.code == 2
    assert str(file) in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--root=/no/such/folder"], r"--root=/no/such/folder: there is no such folder"),
        (["--root=http://example.org/"], r"--root=http://example\.org/: name a folder"),
        (["--host=256.0.0.1"], r"--host=256\.0\.0\.1 --port=0: cannot listen there"),
        (["--host=" + "a" * 80], r"cannot listen there"),
        (["--model={here}/none"], r"--model=.*/none: no config\.json there; give a"),
        (["--live_model={here}/none"], r"^error: --live_model=.*/none: no config\.json there"),
        (["--windows=some"], r"windows must be all, middle, whole or a count, not 'some'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_only_the_server_can_see_is_one_line(tiny_checkpoint, tmp_path, wrong, says):
    (tmp_path / "file").write_text("in the way")
    given = [f"--model={tiny_checkpoint}", f"--cache={tmp_path}/cache"]
    wrong = [option.format(here=tmp_path) for option in wrong]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    status, said = refused(*given, *wrong, TMPDIR=str(temporary))
    said = [line for line in said if not line.startswith("listening at ")]
    assert status == 2, said
    (line,) = said
    assert line.startswith("error: ")
    assert re.search(says, line), line
    assert not any(temporary.iterdir())
