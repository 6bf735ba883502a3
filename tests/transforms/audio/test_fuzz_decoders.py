"""Damaged files of every format that can be written here: sound, or a reason, and nothing else.

FUZZ_CASES=100000 runs more cases than usual, FUZZ_FIRST=5000 others. The cases run in child
processes, since a decoder that crashes would end the tests: the last line that a child wrote
names its case. To repeat that one, alone and in a process of its own:

    FUZZ_FIRST=4711 FUZZ_CASES=1 python -m pytest tests/transforms/test_fuzz_decoders.py
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.damage import PYAV, SOUNDFILE, damage, write_samples
from transforms.audio.decoders import Audio, open_audio
from transforms.audio.readers import DecodeWarning
from transforms.errors import Reason, StageError

pytestmark = pytest.mark.fuzz

ROOT = Path(__file__).parents[3]
CASES = int(os.environ.get("FUZZ_CASES", "6000"))
FIRST = int(os.environ.get("FUZZ_FIRST", "0"))
CHILDREN = 4
DEADLINE_SECONDS = 60  # of one case, on a machine that does much else
MAX_SECONDS = 60.0  # of sound: a damaged header may promise hours
REASONS = {Reason.EMPTY_FILE, Reason.NOT_AUDIO, Reason.UNSUPPORTED_CODEC, Reason.CORRUPT}
WARNINGS = {warning.value for warning in DecodeWarning}


def outcome(path: Path, seed: int) -> str:
    """Decode one case and check the books."""
    try:
        with open_audio(path, max_seconds=MAX_SECONDS) as audio:
            blocks = list(audio.blocks())
            check(audio, blocks)
        check_parts(path, audio, blocks, seed)
    except StageError as error:
        assert error.reason in REASONS and error.message, error.reason
        return error.reason.value
    return "sound" + (" with warnings" if audio.warnings else "")


def check(audio: Audio, blocks: list[np.ndarray]) -> None:
    assert blocks and audio.frames == sum(len(block) for block in blocks)
    assert audio.duration_s == audio.frames / audio.info.sample_rate_hz
    assert set(audio.warnings) <= WARNINGS
    for block in blocks:
        assert block.dtype == np.float32 and block.size <= 4 * 4 * 65_536
        assert block.ndim == 2 and block.shape[1] == audio.info.channels and len(block)
        assert np.isfinite(block).all() and np.abs(block).max() <= 1e4


def check_parts(path: Path, decoded: Audio, blocks: list[np.ndarray], seed: int) -> None:
    """What can be sought at all is what was decoded, as long as one decoder read it all."""
    with open_audio(path, max_seconds=MAX_SECONDS) as audio:
        if audio.exact_frames is None or decoded.info.decoder != "soundfile":
            return
        assert audio.exact_frames == decoded.frames
        first, last = sorted(np.random.default_rng(seed).integers(0, decoded.frames + 1, 2))
        part = list(audio.part(int(first), int(last)))
        whole = np.concatenate(blocks)[first:last]
        np.testing.assert_array_equal(np.concatenate([whole[:0], *part]), whole)


def run_cases(folder: Path, first: int, last: int) -> None:
    """Child's side: a line before each case, one more with what became of it."""
    samples = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "case"
        for seed in range(first, last):
            name, content = damage(samples, seed)
            print(f"case {seed}: {name}", flush=True)
            path.write_bytes(content)
            signal.alarm(DEADLINE_SECONDS)  # its default action ends the process
            print(f"outcome {outcome(path, seed)}", flush=True)
            signal.alarm(0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    write_samples(folder)
    return folder


def test_every_format_decodes_undamaged(samples):
    names = sorted(samples.iterdir())
    assert len(names) == len(SOUNDFILE) + len(PYAV) + 3
    for path in names:
        assert outcome(path, 1) == "sound", path.name


@pytest.mark.parametrize("child", range(CHILDREN))
def test_damaged_files(samples, child):
    edges = [FIRST + CASES * i // CHILDREN for i in range(CHILDREN + 1)]
    program = "import sys; from pathlib import Path; import runpy; " \
        "m = runpy.run_path(sys.argv[1]); " \
        "m['run_cases'](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"  # fmt: skip
    command = [sys.executable, "-X", "faulthandler", "-c", program, __file__, str(samples)]
    done = subprocess.run(
        [*command, str(edges[child]), str(edges[child + 1])],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    lines = done.stdout.splitlines()
    case = next((line for line in reversed(lines) if line.startswith("case ")), "no case")
    assert done.returncode == 0, f"exit {done.returncode} at {case}\n{done.stderr[-3_000:]}"
    outcomes = Counter(line[8:] for line in lines if line.startswith("outcome "))
    assert outcomes.total() == edges[child + 1] - edges[child]
    if outcomes.total() > 100:  # else damage is not what the damage was meant to be
        assert {"sound", "sound with warnings", "corrupt"} <= outcomes.keys()
