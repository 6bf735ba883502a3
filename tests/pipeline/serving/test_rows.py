"""The service's rows are those of the batch pipeline over the same bytes, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.audio_files import noise, sine, write_pyav, write_soundfile
from tests.catalog import Run, label_here
from tests.checkpoints import make_checkpoint, make_recogniser, tiny_front_end
from tests.pipeline.serving.in_process import Served, served
from transforms.errors import StageError

pytestmark = pytest.mark.slow

OF_A_REQUEST = frozenset({"uri", "run_id", "labelled_at", "modified_at"})
OPTIONS = {
    "plain": (),
    "extras": ("--embeddings", "--features", "--top_k=2"),
    "embeddings": ("--embeddings",),
    "middle": ("--windows=middle",),
    "three": ("--windows=3",),
    "whole": ("--windows=whole",),
    "other front end": ("--hop_seconds=0.5", "--normalize_peak", "--max_seconds=3",
                        "--min_seconds=0.6", "--batch_size=3"),
    "bfloat16": ("--precision=bfloat16",),
}  # fmt: skip
LABELLED = frozenset(
    {"mono.wav", "stereo.wav", "long.flac", "music.mp3", "music.ogg", "music.m4a", "short.wav",
     "silent.wav", "truncated.flac", "nan.wav", "half silent.wav"}
)  # fmt: skip
FAILED = {
    "one sample.wav": "too_short",
    "text.mp3": "not_audio",
    "empty.ogg": "empty_file",
    "corrupt.flac": "corrupt",
}


@pytest.fixture(scope="module")
def music(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("music")

    def write(name: str, samples: Any, rate: int, subtype: str = "PCM_16") -> Path:
        kind = Path(name).suffix[1:].upper()
        return write_soundfile(folder / name, samples, rate, kind, subtype)

    write("mono.wav", sine(5.3, 22_050, 1) + noise(5.3, 22_050, 1, 1), 22_050, "FLOAT")
    write("stereo.wav", sine(4.0, 44_100, 2, 300) + noise(4.0, 44_100, 2, 2), 44_100)
    write("long.flac", noise(31.0, 32_000, 2, 3), 32_000, "PCM_24")
    write("music.mp3", sine(6.1, 44_100, 2, 500), 44_100, "MPEG_LAYER_III")
    write("music.ogg", noise(3.0, 48_000, 1, 4), 48_000, "VORBIS")
    write_pyav(folder / "music.m4a", sine(3.0, 44_100, 2, 700), 44_100, "mp4", "aac")
    write("short.wav", sine(0.65, 44_100, 2, 900), 44_100)
    write("silent.wav", np.zeros((66_150, 1), np.float32), 22_050)
    sound = noise(6.0, 22_050, 1, 5)
    sound[: 3 * 22_050] = 0
    write("half silent.wav", sound, 22_050)
    whole = write("truncated.flac", noise(6.0, 22_050, 1, 6), 22_050)
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    write("one sample.wav", sine(1)[:1], 44_100)
    sound = noise(3.0, 22_050, 1, 7)
    sound[44_100] = np.nan
    write("nan.wav", sound, 22_050, "FLOAT")
    (folder / "text.mp3").write_text("This is not music.\n" * 100)
    (folder / "empty.ogg").touch()
    broken = write("corrupt.flac", noise(3.0, 22_050, 1, 8), 22_050)
    content = broken.read_bytes()
    broken.write_bytes(content[:42] + bytes(len(content) - 42))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_checkpoint) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    broken = make_checkpoint(folder / "nan", front_end=tiny_front_end())
    break_weights(broken)
    return {"tiny": tiny_checkpoint, "small gru": make_recogniser(folder / "gru"), "nan": broken,
            "digits-gru": Path("digits-gru")}  # fmt: skip


def break_weights(checkpoint: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    weights["classifier.bias"][:] = np.nan
    save_file(weights, path, {"format": "pt"})


@pytest.fixture(scope="module", params=[*((("tiny", kind)) for kind in OPTIONS),
                                        ("digits-gru", "embeddings"), ("small gru", "three"),
                                        ("nan", "plain")],
                ids=" ".join)  # fmt: skip
def both(request, fork_server, music, models, tmp_path_factory) -> Iterator[tuple[Run, Served]]:
    """A run over the folder, and a service with the same options."""
    model, kind = request.param
    options = (f"--model={models[model]}", *OPTIONS[kind])
    output = tmp_path_factory.mktemp("labels") / "out"
    run = label_here(output, f"--input={music}", "--max_failure_rate=1", *options)
    assert run.status == 0
    with served(*options) as service:
        yield run, service


def by_name(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row.get("window_index", 0)):
        found.setdefault(Path(row["uri"]).name, []).append(content(row))
    return found


def content(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in OF_A_REQUEST | {"failed_at"}}


def outcome(service: Served, path: Path) -> Any:
    """Its row and windows, or reason and message."""
    try:
        labelled = service.label(path)
    except StageError as error:
        return error.reason.value, error.message
    assert labelled.prediction["uri"] == path.name
    assert not labelled.from_cache
    for window in labelled.windows:
        assert window["uri"] == path.name
        assert window["run_id"] == labelled.prediction["run_id"]
    return content(labelled.prediction), [content(window) for window in labelled.windows]


def test_every_row_is_that_of_the_batch_pipeline(both, music):
    """All files at once: a batch then has windows of several of them."""
    run, service = both
    predictions, windows = by_name(run.rows("predictions")), by_name(run.rows("windows"))
    failures = by_name(run.rows("failures"))
    names = os.listdir(music)
    assert {*predictions, *failures} == {*names} == LABELLED | FAILED.keys()
    with ThreadPoolExecutor(len(names)) as executor:
        outcomes = dict(zip(names, executor.map(lambda n: outcome(service, music / n), names),
                            strict=True))  # fmt: skip
    for name, (row,) in failures.items():
        assert outcomes[name] == (row["reason"], row["message"]), name
    for name, (row,) in predictions.items():
        assert different(outcomes[name], (row, windows[name])) == {}, name
        assert list(outcomes[name][0]) == list(row)


def different(found: Any, expected: Any) -> dict[str, Any]:
    """What differs between two rows with their windows: both values by column."""
    rows = zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True)
    return {
        f"{name} {number}": (one.get(name), other.get(name))
        for number, (one, other) in enumerate(rows)
        for name in one.keys() | other.keys()
        if one.get(name, ...) != other.get(name, ...)
    }


def test_a_file_alone_has_the_same_row(both, music):
    run, service = both
    service.cache._memory._entries.clear()
    predictions, windows = by_name(run.rows("predictions")), by_name(run.rows("windows"))
    for name in sorted(LABELLED & predictions.keys()):
        expected = predictions[name][0], windows[name]
        assert different(outcome(service, music / name), expected) == {}, name


def test_what_fails_and_what_does_not(both, request):
    """Else the tests above might compare nothing."""
    run, _ = both
    reasons = {Path(row["uri"]).name: row["reason"] for row in run.rows("failures")}
    model = request.node.callspec.params["both"][0]
    expected = dict(FAILED)
    if model == "nan":
        expected |= dict.fromkeys(LABELLED, "invalid_scores")
    assert reasons == expected
