from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.stand_in_decoder import BLOCK, COMMAND, process_facts, write_marked
from transforms.audio.decoder_process import pieces
from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.errors import StageError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def sandbox():
    with Sandbox(DecoderLimits(command=COMMAND)) as made:
        yield made


def has_ended(number: int) -> bool:
    """Whether there is no such process, or only what its parent has not yet asked for."""
    if Path("/proc/self/stat").exists():
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].strip()
        except (FileNotFoundError, ProcessLookupError):
            return True
    else:
        told = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(number)], capture_output=True, text=True, check=False
        )
        state = told.stdout.strip()
    return state == "" or state.startswith("Z")


def wait_for_end(number: int, seconds: float = 30.0) -> None:
    end_s = time.monotonic() + seconds
    while not has_ended(number):
        assert time.monotonic() < end_s, f"process {number} still runs"
        time.sleep(0.1)


def test_the_child_is_confined(sandbox, tmp_path, monkeypatch) -> None:
    facts = process_facts(sandbox, tmp_path)
    assert facts["session"] == facts["number"] != os.getpid()
    assert facts["core_bytes"] == facts["file_bytes"] == 0


def test_the_child_has_no_secrets(sandbox, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    with sandbox.open(write_marked(tmp_path / "env", "environment")) as audio:
        samples = np.concatenate(list(audio.blocks()))
    text = samples.astype(np.uint8).tobytes().decode()
    assert f"PATH={os.environ['PATH']}" in text.splitlines()
    assert "hush-hush" not in text
    assert "AWS" not in text


PARENT = """
import dataclasses, sys, time
from pathlib import Path
from tests.stand_in_decoder import COMMAND, process_facts, write_marked
from transforms.audio.sandbox import DecoderLimits, Sandbox
folder = Path(sys.argv[1])
sandbox = Sandbox(DecoderLimits(command=COMMAND))
print(process_facts(sandbox, folder)["number"], flush=True)
if sys.argv[2] == "idle":
    time.sleep(1_000)
sandbox.limits = dataclasses.replace(sandbox.limits, timeout_seconds=2.0)
with sandbox.open(write_marked(folder / "bad", sys.argv[2])) as audio:
    list(audio.blocks())
"""


@pytest.mark.fault
@pytest.mark.parametrize("what", ["idle", "hang_native"])
def test_the_child_ends_when_its_parent_was_killed(tmp_path, what) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path), what],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with parent:
        number = int(parent.stdout.readline())
        time.sleep(0.5)  # until it hangs
        parent.kill()
    wait_for_end(number)


EXITS_WHILE_DECODING = """
import atexit, sys, threading
from pathlib import Path
from tests.stand_in_decoder import COMMAND
from transforms.audio.sandbox import DecoderLimits, Sandbox

begun, ended = threading.Event(), threading.Event()
atexit.register(ended.wait, 60)  # called last, behind all that is registered from here on

def decode():
    sandbox = Sandbox(DecoderLimits(command=COMMAND))
    for number, _ in enumerate(sandbox.open(Path(sys.argv[1])).blocks(), 1):
        begun.set()
    print(number, flush=True)
    ended.set()

threading.Thread(target=decode, daemon=True).start()
begun.wait(60)
"""


@pytest.mark.slow
def test_a_thread_that_decodes_while_the_interpreter_exits_sees_no_crash(tmp_path) -> None:
    """It would be journalled as a failure of the file, which a later run would then skip."""
    slow = write_marked(tmp_path / "slow", "slow_but_steady")
    script = subprocess.run([sys.executable, "-c", EXITS_WHILE_DECODING, str(slow)],
                            cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert script.stdout == "24\n", script.stderr


def test_a_block_of_any_length_arrives(sandbox, tmp_path) -> None:
    with sandbox.open(write_marked(tmp_path / "long", "one_large_block")) as audio:
        blocks = list(audio.blocks())
    assert max(block.nbytes for block in blocks) <= 1 << 20
    assert np.array_equal(np.concatenate(blocks)[:, 0], np.arange(1_000_000, dtype=np.float32))


def test_what_libraries_print_is_lost(sandbox, tmp_path, capfd) -> None:
    with sandbox.open(write_marked(tmp_path / "loud", "print_and_decode")) as audio:
        assert [block.tobytes() for block in audio.blocks()] == [BLOCK.tobytes()]
    assert capfd.readouterr() == ("", "")


LOUD_IMPORT = """
import os, sys
from transforms.audio import decoder_process
def load():
    os.write(1, b"a library in C welcomes you\\n")
    from transforms.audio.decoders import open_audio
    return open_audio
decoder_process.run(load, sys.argv[1:])
"""


def test_what_libraries_print_when_imported_is_lost(tmp_path) -> None:
    with (
        Sandbox(DecoderLimits(command=(sys.executable, "-c", LOUD_IMPORT))) as sandbox,
        pytest.raises(StageError, match="no such file"),
    ):
        sandbox.open(tmp_path / "missing")


@pytest.mark.parametrize(
    ("shape", "most", "lengths"),
    [
        ((10, 2), 20, [10]),
        ((10, 2), 19, [9, 1]),
        ((10, 2), 6, [3, 3, 3, 1]),
        ((3, 4), 1, [1, 1, 1]),  # a frame is never cut
        ((0, 2), 20, []),
    ],
)
def test_pieces(shape, most, lengths) -> None:
    block = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    got = list(pieces([block, block], most))
    assert [len(part) for part in got] == 2 * lengths
    assert b"".join(part.tobytes() for part in got) == 2 * block.tobytes()
