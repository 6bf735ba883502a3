"""The command line: what it means, and that a wrong call is said in one line before any work."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipeline.main import main
from pipeline.options import LabelConfig, parse_options
from tests.audio_files import sine, write_soundfile
from tests.catalog import label

REQUIRED = ("--input=a", "--output=out")


def python(code, *argv):
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_imports_neither_beam_nor_torch():
    code = (
        "import sys\nfrom pipeline.main import main\n"
        "try: main(['--help'])\nexcept SystemExit as error: status = error.code\n"
        "heavy = {'torch', 'apache_beam', 'transformers', 'librosa'} & sys.modules.keys()\n"
        "print('STATUS', status, 'HEAVY', sorted(heavy))"
    )
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "STATUS 0 HEAVY []"
    for word in ("--input", "--output", "--max_failure_rate", "exit status: 0 done"):
        assert word in done.stdout


def test_defaults():
    config = parse_options(REQUIRED)
    assert isinstance(config, LabelConfig)
    assert (config.inputs, config.output) == (("a",), "out")
    assert (config.front_end_changes, config.beam_args) == ({}, ())
    assert (config.runner, config.progress, config.max_failure_rate) == ("DirectRunner", "auto", 1)
    assert config.workers >= 1
    assert (config.verify, config.relabel) == ("version", False)
    assert (config.features, config.embeddings) == (False, False)
    assert (config.decode_timeout_seconds, config.decode_memory_mib) == (60.0, 1024)


def test_options_arrive():
    config = parse_options(
        ["--input=a", "--input", "b*", "--output=s3://bucket/x/", "--windows=3", "--no-remove_dc",
         "--trim_silence_db=40", "--top_k=2", "--s3_endpoint_url=http://here", "--relabel",
         "--features", "--verify=content", "--decode_timeout_seconds=1.5", "--decode_memory_mib=64"]
    )  # fmt: skip
    assert config.inputs == ("a", "b*")
    assert config.output == "s3://bucket/x"
    assert config.front_end_changes == {
        "windows": "3",
        "remove_dc": False,
        "trim_silence_db": 40.0,
    }
    assert config.top_k == 2
    assert (config.features, config.embeddings) == (True, False)
    assert (config.verify, config.relabel) == ("content", True)
    assert (config.decode_timeout_seconds, config.decode_memory_mib) == (1.5, 64)
    assert config.beam_args == ("--s3_endpoint_url=http://here",)


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["--window_seconds=5"], {"window_seconds": 5.0, "hop_seconds": 5.0}),
        (["--window_seconds=5", "--hop_seconds=2"], {"window_seconds": 5.0, "hop_seconds": 2.0}),
        (["--hop_seconds=2"], {"hop_seconds": 2.0}),
    ],
)
def test_windows_follow_each_other_unless_told(options, changes):
    assert parse_options([*REQUIRED, *options]).front_end_changes == changes


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        ((), "--input, --output"),
        (("--input=a",), "--output"),
        (("--input=", "--output=o"), "--input"),
        (("--input=a", "--output="), "--output"),
        (("--input=a", "--output= "), "--output"),
        ((*REQUIRED, "--batch_size=0"), "--batch_size"),
        ((*REQUIRED, "--workers=-1"), "--workers"),
        ((*REQUIRED, "--workers=two"), "--workers"),
        ((*REQUIRED, "--max_failure_rate=1.5"), "--max_failure_rate"),
        ((*REQUIRED, "--max_failure_rate=nan"), "--max_failure_rate"),
        ((*REQUIRED, "--min_seconds=nan"), "--min_seconds"),
        ((*REQUIRED, "--max_seconds=inf"), "--max_seconds"),
        ((*REQUIRED, "--window_seconds=inf"), "--window_seconds"),
        ((*REQUIRED, "--decode_timeout_seconds=0"), "--decode_timeout_seconds"),
        ((*REQUIRED, "--decode_timeout_seconds=inf"), "--decode_timeout_seconds"),
        ((*REQUIRED, "--decode_memory_mib=0"), "--decode_memory_mib"),
        ((*REQUIRED, "--decode_memory_mib=1.5"), "--decode_memory_mib"),
        ((*REQUIRED, "--verify=never"), "--verify"),
        ((*REQUIRED, "--format=xml"), "--format"),
        ((*REQUIRED, "--front_end=other"), "--front_end"),
        ((*REQUIRED, "--precision=int8"), "--precision"),
    ],
)
def test_values_out_of_range_are_wrong_calls(argv, names, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_options(argv)
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "error:" in last
    assert names in last


@pytest.fixture
def good(tmp_path, tiny_checkpoint):
    """Options of a call that would succeed, by name."""
    path = write_soundfile(tmp_path / "a.wav", sine(0.5), 44_100, "WAV", "PCM_16")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    (tmp_path / "no rows.csv").write_text("uri\n")
    (tmp_path / "no.parquet").write_text("no parquet")
    (tmp_path / "file").write_text("in the way")
    return {"input": str(path), "output": f"{tmp_path}/out", "model": str(tiny_checkpoint)}


WRONG_CALLS = [
    ({"input": "{here}/none/*.mp3"}, r"--input=.*/none/\*\.mp3 matches nothing; give a glob"),
    ({"input": "{here}/missing.csv"}, r"missing\.csv: there is no such manifest; check the path"),
    ({"input": "{here}/columns.csv"}, r"no column 'uri' .* its columns are a, b; rename"),
    ({"input": "{here}/no rows.csv"}, r"no rows\.csv: the manifest has no rows; list"),
    ({"input": "{here}/no.parquet"}, r"no\.parquet: not a readable parquet manifest: .*; repair"),
    ({"output": "{here}/file"}, r"--output=.*/file cannot be created: .*Not a directory"),
    ({"output": "{here}/file/below"}, r"--output=.*/file/below cannot be created"),
    ({"output": "{here}/out[1]"}, r"--output=.*/out\[1\]: .* choose another name"),
    ({"bogus": "1"}, r"--bogus=1: not an option of this program or of Apache Beam; see --help"),
    ({"runner": "NoRunner"}, r"--runner=NoRunner: .*Valid values are .*FlinkRunner"),
    ({"model": "{here}/none"}, r"--model=.*/none: no config\.json there; give a"),
    ({"front_end": "ccmusic"}, r"brings its own front end; leave --front_end=ccmusic away"),
    ({"windows": "some"}, r"windows must be all, middle, whole or a count, not 'some'"),
    ({"windows": "0"}, r"windows must be all, middle, whole or a count, not '0'"),
]


def argv_of(options, here):
    return [f"--{name}={value.format(here=here)}" for name, value in options.items()]


@pytest.mark.parametrize(("wrong", "says"), WRONG_CALLS, ids=[str(w) for w, _ in WRONG_CALLS])
def test_a_wrong_call_is_one_line_and_leaves_nothing(good, wrong, says, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert main(argv_of(good | wrong, tmp_path)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(says, line), line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_in_a_process_of_its_own(good, tmp_path):
    run = label(tmp_path / "out", f"--input={tmp_path}/missing.csv", f"--model={good['model']}")
    assert run.status == 2
    assert run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert line == f"error: {tmp_path}/missing.csv: there is no such manifest; check the path"
    assert not (tmp_path / "out").exists()
