"""benchmarks/growth.py: its catalogs, its arithmetic, and one small run of the real program."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pyarrow.dataset as ds
import pytest

from benchmarks import growth
from benchmarks.growth import Run
from transforms.audio.decoders import open_audio

BALANCED = {"listed": 100, "labelled": 100, "failed": 0, "skipped": 0}
RUN = Run(100, 12.0, 20.0, 1_500.0, 100, BALANCED, {}, 2)


def sized(tracks: int, seconds: float) -> Run:
    counts = BALANCED | {"listed": tracks, "labelled": tracks}
    return dataclasses.replace(RUN, tracks=tracks, seconds=seconds, rows=tracks, counts=counts)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    folder = tmp_path_factory.mktemp("growth") / "catalog"
    growth.make_catalog(folder, 30)
    return folder


def test_contents_and_sizes_are_distinct(catalog):
    files = sorted(catalog.rglob("*.mp3"))
    assert len(files) == 30
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == 30
    assert len({path.stat().st_size for path in files}) == 30


def test_the_tag_does_not_change_the_sound(catalog):
    def sound(track):
        with open_audio(catalog / "0000" / f"{track:08d}.mp3") as audio:
            return np.concatenate(list(audio.blocks()))

    first, same, other = sound(0), sound(8), sound(1)
    assert abs(len(first) / 22_050 - 5) < 0.1  # the encoder pads
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_tag_is_as_long_as_it_says():
    tag = growth.id3_tag("track 7", 1_000)
    size = 0
    for byte in tag[6:10]:  # seven bits each
        assert byte < 0x80
        size = size << 7 | byte
    assert len(tag) == 1_000 == size + 10
    assert b"track 7" in tag


def test_a_tag_too_small_is_refused():
    with pytest.raises(ValueError, match="too small"):
        growth.id3_tag("track 7", 27)


def test_marginal_and_fixed_cost_are_those_of_a_line():
    lines = growth.to_lines([sized(1_000, 20.0), sized(100, 11.0), sized(5_000, 100.0)])
    assert [line.tracks for line in lines] == [100, 1_000, 5_000]
    assert [line.marginal_ms for line in lines] == [None, pytest.approx(10), pytest.approx(20)]
    assert [line.fixed_seconds for line in lines] == [None, pytest.approx(10), pytest.approx(0)]


def test_balanced_books():
    assert RUN.balanced


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 99},
        {"rows": 101},
        {"tracks": 101},
        {"counts": BALANCED | {"listed": 101}},
        {"counts": BALANCED | {"labelled": 99, "failed": 1}},
        {"counts": BALANCED | {"skipped": 1}},
    ],
)
def test_books_that_do_not_balance(change):
    assert not dataclasses.replace(RUN, **change).balanced


def test_sizes_come_sorted_and_once():
    assert growth.sizes("1000,100,1000") == [100, 1_000]


@pytest.mark.parametrize(("rows", "status"), [(100, 0), (99, 1)])
def test_the_report(rows, status, tmp_path, capsys):
    lines = growth.to_lines([dataclasses.replace(RUN, rows=rows), sized(1_000, 21.0)])
    path = tmp_path / "numbers.json"
    assert growth.report(lines, growth.table(lines), path) == status
    told = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert told[2] == ["100", "12.0", "20.0", "", "", "1,500", "WRONG" if status else "balanced"]
    assert told[3] == ["1,000", "21.0", "20.0", "10.00", "11.0", "1,500", "balanced"]
    assert [line["marginal_ms"] for line in json.loads(path.read_text())] == [None, 10.0]


def test_a_run_that_fails_ends_the_benchmark(tmp_path):
    with pytest.raises(SystemExit, match="ended with 2"):
        growth.label(tmp_path / "nothing", tmp_path / "labels", 30)


def test_a_catalog_is_labelled_in_full(catalog, tiny_checkpoint, tmp_path):
    output = tmp_path / "labels"
    run = growth.label(catalog, output, 30, f"--model={tiny_checkpoint}", "--workers=1")
    assert run.balanced
    assert (run.tracks, run.rows, run.workers) == (30, 30, 1)
    assert run.seconds > 0 < run.cpu_seconds
    assert run.peak_mib > 50
    uris = ds.dataset(output / "predictions").to_table(["uri"])["uri"].to_pylist()
    assert sorted(uris) == sorted(str(path) for path in catalog.rglob("*.mp3"))
