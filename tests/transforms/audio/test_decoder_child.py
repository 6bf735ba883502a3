from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests.audio_files import noise, write_soundfile
from transforms.audio import sandbox, shared_block
from transforms.audio.decoder_child import child_environment
from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.errors import WorkerError

ROOT = Path(__file__).parents[3]


def test_child_environment() -> None:
    kept = {"MALLOC_TRIM_THRESHOLD_": "7"}
    kept |= {"PATH": "a", "LC_ALL": "b", "PYTHONHASHSEED": "1", "DYLD_X": "c", "HOME": "d"}
    secret = {"TOKEN": "x", "GOOGLE_APPLICATION_CREDENTIALS": "y", "MY_PATH": "z", "PATHX": "w"}
    made = child_environment(kept | secret | {"PYTHONPATH": "/p"})
    assert {name: made[name] for name in kept} == kept
    assert not secret.keys() & made.keys()
    assert made["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/p"]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch) -> None:
    monkeypatch.setattr(sandbox, "RESTART_SECONDS", 0.0)


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("/no/such/program",), "No such file"),
        ((sys.executable, "-c", "import sys; sys.exit('it is cold')"), "it is cold"),
        ((sys.executable, "-c", "import sys; sys.exit('cold\\nand dark')"), "^.*cold . and dark"),
        ((sys.executable, "-c", "print('x' * 200)"), "a header of"),
        ((sys.executable, "-m", "no_such_module"), "no_such_module"),
    ],
)
def test_a_child_that_does_not_start_is_no_files_fault(tmp_path, command, told) -> None:
    with pytest.raises(WorkerError, match=told) as caught:
        Sandbox(DecoderLimits(command=command)).open(tmp_path / "any.mp3")
    assert command[0] in str(caught.value)


def test_a_worker_without_files_left_is_no_files_fault(tmp_path, monkeypatch) -> None:
    def none_left() -> IO[bytes]:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shared_block, "_new_file", none_left)
    with pytest.raises(WorkerError, match="Too many open files"):
        Sandbox().open(tmp_path / "any.mp3")


SECOND_TIME = """
import os, sys
from pathlib import Path
tried = Path({tried!r})
if not tried.exists():
    sys.exit(tried.write_text("once"))
from transforms.audio import decoder_process
decoder_process.run(decoder_process._load, sys.argv[1:])
"""


def test_a_child_that_does_not_start_gets_a_second_chance(tmp_path) -> None:
    code = SECOND_TIME.format(tried=str(tmp_path / "tried"))
    path = write_soundfile(tmp_path / "a.wav", noise(1.0, 8_000, 1, 0), 8_000, "WAV", "FLOAT")
    limits = DecoderLimits(command=(sys.executable, "-c", code))
    with Sandbox(limits) as decoders, decoders.open(path) as audio:
        assert sum(map(len, audio.blocks())) == 8_000


def test_without_memfd_sound_comes_through_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    sound = noise(5.0, 44_100, 2, 0)
    path = write_soundfile(tmp_path / "a.wav", sound, 44_100, "WAV", "FLOAT")
    with Sandbox() as decoders, decoders.open(path) as audio:
        assert np.array_equal(np.concatenate(list(audio.blocks())), sound)
