"""A track's row does not depend on batch size, workers, order or neighbours."""

from __future__ import annotations

import random

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import label_here, without_run_columns

TRACKS = 7


@pytest.fixture(scope="module")
def tracks(tmp_path_factory):
    """Tracks of one to four windows."""
    folder = tmp_path_factory.mktemp("tracks")
    for number in range(TRACKS):
        seconds = 1.0 + number
        sound = sine(seconds, 22_050, 1, 150.0 * (number + 1)) + noise(seconds, 22_050, 1, number)
        write_soundfile(folder / f"{number}.flac", sound, 22_050, "FLAC", "PCM_16")
    return folder


def run(tracks, checkpoint, folder, *, order=range(TRACKS), extra=(), batch_size=4):
    """Predictions and windows of a manifest in the given order."""
    manifest = folder / "m.csv"
    names = [f"{tracks}/{number}.flac" for number in order] + list(extra)
    manifest.write_text("uri,track_id\n" + "".join(f"{n},{n[-6:-5]}\n" for n in names))
    done = label_here(
        folder / "out",
        f"--input={manifest}",
        f"--model={checkpoint}",
        f"--batch_size={batch_size}",
        "--precision=float32",
    )
    assert done.status == 0
    return [without_run_columns(done.rows(name)) for name in ("predictions", "windows")]


@pytest.fixture(scope="module")
def reference(tracks, tiny_checkpoint, tmp_path_factory):
    predictions, windows = run(tracks, tiny_checkpoint, tmp_path_factory.mktemp("reference"))
    assert len(predictions) == TRACKS
    assert len({tuple(row["scores"]) for row in predictions}) == TRACKS  # tracks do differ
    return predictions, windows


def assert_close(found, expected):
    """Equal rows, but for 1e-6 in the model's numbers."""
    assert len(found) == len(expected)
    numbers = ("scores", "confidence", "embedding")
    for row, other in zip(found, expected, strict=True):
        for name in row.keys() - {"top_k"}:
            same = pytest.approx(other[name], abs=1e-6) if name in numbers else other[name]
            assert row[name] == same, (row["uri"], name)


@pytest.mark.parametrize("batch_size", [1, 16])
def test_batch_size(tracks, tiny_checkpoint, reference, tmp_path, batch_size):
    rows = run(tracks, tiny_checkpoint, tmp_path, batch_size=batch_size)
    for found, expected in zip(rows, reference, strict=True):
        assert_close(found, expected)


def test_order_of_the_manifest(tracks, tiny_checkpoint, reference, tmp_path):
    order = list(range(TRACKS))
    random.Random(3).shuffle(order)
    assert order != sorted(order)
    rows = run(tracks, tiny_checkpoint, tmp_path, order=order)
    assert tuple(rows) == reference


def test_a_corrupt_neighbour(tracks, tiny_checkpoint, reference, tmp_path):
    (tmp_path / "corrupt.flac").write_bytes(b"fLaC" + bytes(1000))
    extra = [f"{tmp_path}/corrupt.flac", f"{tmp_path}/missing.flac"]
    assert tuple(run(tracks, tiny_checkpoint, tmp_path, extra=extra)) == reference


@pytest.mark.parametrize("name", ["predictions", "windows", "failures"])
def test_workers_and_order_of_inputs(one_worker, two_workers, name):
    """Bit for bit: one worker in this process, two in their own."""
    one, two = one_worker.rows(name), two_workers.rows(name)
    assert one
    assert without_run_columns(one) == without_run_columns(two)
