from __future__ import annotations

import dataclasses
import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests import stand_in_decoder
from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.stand_in_decoder import BLOCK, COMMAND, process_facts, write_marked
from transforms.audio import sandbox as sandbox_module
from transforms.audio.decoders import open_audio
from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.errors import Reason, StageError, UsageError

GENEROUS = DecoderLimits(timeout_seconds=120.0, memory_bytes=1 << 28, command=COMMAND)
HASTY = dataclasses.replace(GENEROUS, timeout_seconds=1.0)  # for what hangs anyway
NEEDS_STATM = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="memory is not limited on this system"
)


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write_soundfile(
        tmp_path_factory.mktemp("good") / "good.flac", noise(3.0), 44_100, "FLAC"
    )


@pytest.fixture(scope="module")
def long_lived():
    with Sandbox(GENEROUS) as made:
        yield made


@pytest.fixture
def sandbox():
    with Sandbox(GENEROUS) as made:
        yield made


def everything(audio) -> tuple:
    """All that can be known of a file that is read as a whole."""
    samples = np.concatenate(list(audio.blocks()))
    facts = audio.info, audio.frames, audio.duration_s, audio.warnings, audio.exact_frames
    return samples.dtype, samples.shape, samples.tobytes(), *facts


def check_still_good(sandbox, path) -> None:
    sandbox.limits = GENEROUS
    with sandbox.open(path) as remote, open_audio(path) as direct:
        assert everything(remote) == everything(direct)


def is_known(number: int) -> bool:
    """Whether there is such a process, even as a zombie."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


# What goes wrong in the child costs one file.


@pytest.mark.fault
@pytest.mark.parametrize(
    ("misbehaviour", "limits", "reason", "told"),
    [
        ("hang", HASTY, Reason.TIMEOUT, "the limit is 1 s"),
        ("open_hang_native", HASTY, Reason.TIMEOUT, "raise the limit"),
        ("block_then_hang", HASTY, Reason.TIMEOUT, "s of sound"),
        ("run_out_of_time", GENEROUS, Reason.TIMEOUT, "the limit is 120 s"),
        ("slower_than_sound", HASTY, Reason.TIMEOUT, "stopped after"),
        ("abort", GENEROUS, Reason.DECODER_CRASH, "SIGABRT"),
        ("open_segfault", GENEROUS, Reason.DECODER_CRASH, "SIGSEGV"),
        ("segfault", GENEROUS, Reason.DECODER_CRASH, "SIGSEGV"),
        ("end", GENEROUS, Reason.DECODER_CRASH, "status 3"),
        ("kill", GENEROUS, Reason.DECODER_CRASH, "SIGKILL"),
        ("say_garbage", GENEROUS, Reason.DECODER_CRASH, "garbage"),
        ("cut_off_samples", GENEROUS, Reason.DECODER_CRASH, "no (1000, 1) samples"),
        pytest.param(
            *("allocate", GENEROUS, Reason.OUT_OF_MEMORY, f"{1 << 28} bytes"), marks=NEEDS_STATM
        ),
        pytest.param(
            *("open_allocate", GENEROUS, Reason.OUT_OF_MEMORY, "raise the limit"),
            marks=NEEDS_STATM,
        ),
        ("fail", GENEROUS, Reason.INTERNAL_ERROR, "ValueError: not what anyone expected"),
        ("write_a_file", GENEROUS, Reason.INTERNAL_ERROR, "OSError"),
    ],
)
def test_a_bad_file_costs_itself_alone(
    long_lived, tmp_path, good, misbehaviour, limits, reason, told
) -> None:
    long_lived.limits = limits
    path = write_marked(tmp_path / "bad.mp3", misbehaviour)
    with pytest.raises(StageError) as caught, long_lived.open(path) as audio:
        for block in audio.blocks():
            assert block.tobytes() == BLOCK[: len(block)].tobytes()
    assert caught.value.reason is reason
    assert told in caught.value.message
    assert "bad.mp3" in caught.value.message
    check_still_good(long_lived, good)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("misbehaviour", "limits", "reason"),
    [
        ("block_then_hang", HASTY, Reason.TIMEOUT),
        ("block_then_abort", GENEROUS, Reason.DECODER_CRASH),
    ],
)
def test_counting_is_guarded_too(long_lived, tmp_path, good, misbehaviour, limits, reason) -> None:
    long_lived.limits = limits
    with (
        pytest.raises(StageError) as caught,
        long_lived.open(write_marked(tmp_path / "bad", misbehaviour)) as audio,
    ):
        audio.count_frames()
    assert caught.value.reason is reason
    check_still_good(long_lived, good)


def test_blocks_before_a_crash_arrive(sandbox, tmp_path) -> None:
    with sandbox.open(write_marked(tmp_path / "bad", "block_then_abort")) as audio:
        blocks = audio.blocks()
        assert next(blocks).tobytes() == BLOCK.tobytes()
        assert audio.frames == len(BLOCK)
        with pytest.raises(StageError, match="SIGABRT"):
            next(blocks)
        with pytest.raises(RuntimeError, match="no longer open"):
            audio.count_frames()


def test_an_interrupted_call_does_not_mix_up_replies(sandbox, tmp_path, good) -> None:
    def interrupt(number, frame) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with sandbox.open(write_marked(tmp_path / "slow", "block_then_hang")) as audio:
            blocks = audio.blocks()
            next(blocks)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                next(blocks)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    check_still_good(sandbox, good)


def test_a_crash_in_closing_takes_nothing_away(sandbox, tmp_path, good) -> None:
    with sandbox.open(write_marked(tmp_path / "bad", "fail_to_close")) as audio:
        assert audio.count_frames() == 7
    check_still_good(sandbox, good)


def test_what_an_earlier_file_broke_is_not_this_ones_fault(sandbox, tmp_path) -> None:
    path = write_marked(tmp_path / "innocent", "open_abort_when_reused")
    first = process_facts(sandbox, tmp_path)["number"]
    with sandbox.open(path) as audio:
        assert audio.count_frames() == len(BLOCK)
    assert process_facts(sandbox, tmp_path)["number"] != first


def test_a_child_that_ended_between_two_files_is_no_files_fault(sandbox, tmp_path, good) -> None:
    number = process_facts(sandbox, tmp_path)["number"]
    os.kill(number, signal.SIGKILL)
    check_still_good(sandbox, good)


# Time.


def test_steady_sound_earns_time_and_is_seen_live(sandbox, tmp_path, monkeypatch) -> None:
    seen = []
    ask = sandbox.ask

    def watched(account, request):
        if request["op"] == "count":
            seen.append(audio.frames)
        return ask(account, request)

    sandbox.limits = dataclasses.replace(GENEROUS, timeout_seconds=3.0)  # it takes 3.6 s
    with sandbox.open(write_marked(tmp_path / "slow", "slow_but_steady")) as audio:
        monkeypatch.setattr(sandbox, "ask", watched)
        assert audio.count_frames() == 24 * len(BLOCK)
    assert seen == sorted(set(seen))
    assert seen[0] == 0 < seen[1] < seen[-1] < 24 * len(BLOCK)


def test_every_block_earns_its_length(sandbox, good, monkeypatch) -> None:
    accounts = []
    ask = sandbox.ask

    def watched(account, request):
        accounts.append(account)
        return ask(account, request)

    monkeypatch.setattr(sandbox, "ask", watched)
    with sandbox.open(good) as audio:
        assert len(list(audio.blocks())) > 1
    assert accounts[0].given_s == pytest.approx(3.0)


def test_a_slow_consumer_costs_no_time(sandbox, tmp_path) -> None:
    sandbox.limits = dataclasses.replace(GENEROUS, timeout_seconds=3.0)
    with sandbox.open(write_marked(tmp_path / "short", "three_frames")) as audio:
        blocks = audio.blocks()
        next(blocks)
        time.sleep(3.1)
        assert len(list(blocks)) == 2


# The same as open_audio.


@pytest.fixture(scope="module", params=["wav", "flac", "ogg", "mp3", "m4a", "mono"])
def some_file(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("files") / f"some.{request.param}"
    samples = sine(4.0) + noise(4.0)
    if request.param == "m4a":
        return write_pyav(path, samples, 44_100, "mp4", "aac")
    if request.param == "mono":
        return write_soundfile(path, samples[:, :1], 44_100, "WAV", "FLOAT")
    kind = {"ogg": "OGG"}.get(request.param, request.param.upper())
    return write_soundfile(path, samples, 44_100, kind)


@pytest.fixture(scope="module")
def kept_sandbox():
    """The default child, kept over several tests, as it is over several files."""
    with Sandbox() as made:
        yield made


@pytest.mark.parametrize(
    "options",
    [{}, {"channel_rule": "mean"}, {"channel_rule": "first"}, {"max_seconds": 1.5}],
    ids=str,
)
def test_blocks_equal(kept_sandbox, some_file, options) -> None:
    with kept_sandbox.open(some_file, **options) as remote, open_audio(some_file, **options) as own:
        assert [b.shape for b in own.blocks()] == [b.shape for b in remote.blocks()]
    with kept_sandbox.open(some_file, **options) as remote, open_audio(some_file, **options) as own:
        assert everything(remote) == everything(own)


def test_count_equals(kept_sandbox, some_file) -> None:
    with kept_sandbox.open(some_file) as remote, open_audio(some_file) as own:
        frames = sum(len(block) for block in own.blocks())
        assert remote.count_frames() == remote.frames == frames
        assert (remote.info, remote.warnings) == (own.info, own.warnings)


def test_count_goes_on_where_the_blocks_were_left(kept_sandbox, some_file) -> None:
    with kept_sandbox.open(some_file) as remote, open_audio(some_file) as own:
        assert len(next(remote.blocks())) < remote.count_frames()
        assert remote.frames == sum(len(block) for block in own.blocks())


def test_parts_equal(kept_sandbox, some_file) -> None:
    with kept_sandbox.open(some_file) as remote, open_audio(some_file) as own:
        frames = own.exact_frames
        assert remote.exact_frames == frames
        if frames is None:
            with pytest.raises(ValueError, match="by seeking"):
                remote.part(0, 1)
            return
        for first, last in [(0, 100), (5_000, 100_000), (frames - 10, frames), (0, frames)]:
            got = np.concatenate(list(remote.part(first, last)))
            np.testing.assert_array_equal(got, np.concatenate(list(own.part(first, last))))
            assert len(got) == last - first
        assert (remote.frames, remote.warnings) == (own.frames, own.warnings)
        for first, last in [(-1, 5), (5, 4), (0, frames + 1)]:
            with pytest.raises(ValueError, match="by seeking"):
                remote.part(first, last)


def test_some_file_has_parts(kept_sandbox, good) -> None:
    with kept_sandbox.open(good) as audio:
        assert audio.exact_frames == 3 * 44_100
        older = audio.part(0, 50_000)
        next(older)
        next(audio.part(0, 10))
        with pytest.raises(RuntimeError, match="another part"):
            next(older)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, Reason.NOT_FOUND), (b"", Reason.EMPTY_FILE), (b"no sound" * 99, Reason.NOT_AUDIO)],
)
def test_refusals_equal(kept_sandbox, tmp_path, content, reason) -> None:
    path = tmp_path / "nàmé \udcff \n.mp3"  # JSON has to carry it
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StageError) as own:
        open_audio(path)
    with pytest.raises(StageError) as remote:
        kept_sandbox.open(path)
    assert remote.value.reason is own.value.reason is reason
    assert remote.value.message == own.value.message


def test_relative_paths_mean_the_parents_folder(sandbox, good, tmp_path, monkeypatch) -> None:
    check_still_good(sandbox, good)  # the child runs before the folder changes
    (tmp_path / "track").write_bytes(good.read_bytes())
    monkeypatch.chdir(tmp_path)
    check_still_good(sandbox, Path("track"))


# The child's life.


def test_the_child_is_kept_from_file_to_file(sandbox, tmp_path, good) -> None:
    number = process_facts(sandbox, tmp_path)["number"]
    with sandbox.open(good) as audio:
        next(audio.blocks())  # and no more
    with pytest.raises(StageError):
        sandbox.open(tmp_path / "missing")
    abandoned = sandbox.open(good)
    check_still_good(sandbox, good)
    with pytest.raises(RuntimeError, match="no longer open"):
        next(abandoned.blocks())
    abandoned.close()
    assert process_facts(sandbox, tmp_path)["number"] == number


def test_the_child_is_renewed_now_and_then(sandbox, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sandbox_module, "FILES_PER_CHILD", 2)
    numbers = [process_facts(sandbox, tmp_path)["number"] for _ in range(3)]
    assert numbers[0] == numbers[1] != numbers[2]


def test_closing_ends_the_child_and_may_be_repeated(tmp_path, good) -> None:
    sandbox = Sandbox(GENEROUS)
    sandbox.close()  # before there is a child
    number = process_facts(sandbox, tmp_path)["number"]
    assert is_known(number)
    audio = sandbox.open(good)
    sandbox.close()
    sandbox.close()
    assert not is_known(number)
    audio.close()
    audio.close()
    check_still_good(sandbox, good)
    sandbox.close()


def test_a_forgotten_sandbox_leaves_no_process(tmp_path) -> None:
    sandbox = Sandbox(GENEROUS)
    number = process_facts(sandbox, tmp_path)["number"]
    del sandbox
    gc.collect()
    assert not is_known(number)


def test_limits_are_positive() -> None:
    with pytest.raises(UsageError, match="timeout_seconds is 0"):
        DecoderLimits(timeout_seconds=0)
    with pytest.raises(UsageError, match="memory_bytes is -1"):
        DecoderLimits(memory_bytes=-1)


def test_every_misbehaviour_can_be_asked_for(tmp_path) -> None:
    for name in stand_in_decoder.MISBEHAVIOURS:
        assert name.encode() in write_marked(tmp_path / name, name).read_bytes()
    with pytest.raises(KeyError):
        write_marked(tmp_path / "x", "behave")
