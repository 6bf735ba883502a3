"""Where the time went: from metrics to shares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.profile import PARTS, profile, table
from tests.audio_files import sine, write_soundfile
from tests.catalog import label


def metric(name, result, namespace="Profile"):
    key = SimpleNamespace(metric=SimpleNamespace(namespace=namespace, name=name))
    return SimpleNamespace(key=key, result=result)


def result_of(counters, distributions=()):
    found = {"counters": counters, "distributions": list(distributions)}
    return SimpleNamespace(metrics=lambda: SimpleNamespace(query=lambda: found))


def test_shares_are_of_all_core_seconds_and_sum_to_one():
    result = result_of(
        [
            metric("decode", 2_000_000), metric("mel", 500_000), metric("batch_rows", 10),
            metric("batch_rows", 6),  # of another step
            metric("elements_in", 12, "RunInference"), metric("mel", 9_000_000, "Another"),
        ],
        [metric("batch_wait_microseconds", SimpleNamespace(mean=250_000.0))],
    )  # fmt: skip
    found = profile(result, seconds=10.0, cores=2, threads=2, model_seconds=3.0)
    assert found["core_seconds"] == 20.0
    assert list(found["parts"]) == [*PARTS, "rest"]
    assert found["parts"]["decode"] == {"seconds": 2.0, "share": 0.1}
    assert found["parts"]["mel"] == {"seconds": 0.5, "share": 0.025}
    assert found["parts"]["inference"] == {"seconds": 6.0, "share": 0.3}  # on two threads
    assert found["parts"]["rest"] == {"seconds": 11.5, "share": 0.575}
    assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1.0)
    assert (found["batch_wait_seconds"], found["padding_share"]) == (0.25, 0.25)


def test_a_run_without_a_batch():
    found = profile(result_of([]), seconds=1.0, cores=1, threads=1, model_seconds=0.0)
    assert (found["batch_wait_seconds"], found["padding_share"]) == (None, None)
    assert found["parts"]["rest"]["share"] == 1.0
    assert len(table(found).splitlines()) == 2 + len(PARTS)


def test_a_run_says_where_its_time_went(tmp_path, tiny_checkpoint):
    music = tmp_path / "music"
    music.mkdir()
    for number in range(3):
        sound = sine(4.0, 44_100, 2, 200.0 + number)
        write_soundfile(music / f"{number}.wav", sound, 44_100, "WAV", "PCM_16")
    options = (f"--input={music}", f"--model={tiny_checkpoint}", "--workers=1", "--batch_size=4")
    run = label(tmp_path / "out", *options, "--profile")
    found = run.record["profile"]
    for part in ("read", "decode", "mono", "transfer", "resample", "mel", "resize", "inference"):
        assert found["parts"][part]["seconds"] >= 0.0, part
    assert found["parts"]["decode"]["seconds"] > 0
    assert found["parts"]["inference"]["seconds"] > 0
    assert found["padding_share"] == 0.25  # six windows of two seconds in two batches of four
    shares = [part["share"] for part in found["parts"].values()]
    assert sum(shares) == pytest.approx(1.0, abs=0.01)
    assert "inference" in run.stdout
