"""A folder of music whose output is labelled again and again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import Run, label_here

RATE_HZ = 22_050
SECONDS = {"a": 1.0, "b": 3.0, "c": 5.0}  # one, two and three windows
WINDOWS = {"a": 1, "b": 2, "c": 3}
OF_A_ROW = ("uri", "track_id", "content_sha256", "label", "scores", "window_count")


def write_track(path: Path, seed: int, seconds: float = 3.0, kind: str = "FLAC") -> Path:
    sound = sine(seconds, RATE_HZ, 1, 150.0 * (seed + 1)) + noise(seconds, RATE_HZ, 1, seed)
    return write_soundfile(path, sound, RATE_HZ, kind, "PCM_16")


@dataclass
class Shelf:
    """A folder of music, and an output that has been labelled once."""

    music: Path
    output: Path
    model: Path

    def path(self, name: str) -> Path:
        return self.music / name

    def label(self, *options: str) -> Run:
        run = label_here(self.output, f"--input={self.music}", f"--model={self.model}",
                         "--precision=float32", *options)  # fmt: skip
        assert run.status == 0
        return run


def labelled_shelf(folder: Path, model: Path) -> Shelf:
    """Three tracks and a broken file, labelled once."""
    shelf = Shelf(folder / "music", folder / "out", model)
    shelf.music.mkdir()
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        write_track(shelf.path(f"{name}.flac"), seed, seconds)
    shelf.path("broken.mp3").write_text("no sound at all")
    shelf.label()
    return shelf


def restored(shelf: Shelf, kept: Path) -> Iterator[Shelf]:
    """The shelf, put back afterwards into the same place: uris are absolute."""
    shutil.copytree(shelf.output.parent, kept, copy_function=shutil.copy2)
    yield shelf
    shutil.rmtree(shelf.output.parent)
    shutil.copytree(kept, shelf.output.parent, copy_function=shutil.copy2)


def names(rows) -> list[str]:
    return [Path(row["uri"]).name for row in rows]


def counts(run: Run) -> dict[str, int]:
    return {key: run.record["counts"][key] for key in ("listed", "labelled", "failed", "skipped")}


def inferred(run: Run) -> int:
    """Windows that went to the model."""
    return run.record["stages"].get("RunInference", {}).get("elements_in", 0)


def comparable(rows) -> list[dict]:
    return [{name: row[name] for name in OF_A_ROW} for row in rows]
