"""A catalog in every format with every kind of failure, and what a run must make of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds

from tests.audio_files import noise, sine, write_pyav, write_soundfile

ROOT = Path(__file__).parent.parent
DATASETS = ("predictions", "windows", "failures")
RUN_COLUMNS = ("run_id", "labelled_at", "failed_at")

SOUNDFILE = {  # name: rate, channels, kind, subtype
    "pcm16.wav": (44_100, 2, "WAV", "PCM_16"),
    "pcm24.wav": (96_000, 2, "WAV", "PCM_24"),
    "float.wav": (22_050, 1, "WAV", "FLOAT"),
    "eight bits.wav": (11_025, 1, "WAV", "PCM_U8"),
    "six channels.flac": (48_000, 6, "FLAC", "PCM_24"),
    "ünïcödé 日本語.flac": (44_100, 2, "FLAC", "PCM_16"),
    "[live] take (1).ogg": (44_100, 2, "OGG", "VORBIS"),
    "speech.opus": (48_000, 1, "OGG", "OPUS"),
    "x" * 200 + ".mp3": (44_100, 2, "MP3", "MPEG_LAYER_III"),
    "a.aiff": (32_000, 2, "AIFF", "PCM_16"),
    "b.au": (8_000, 1, "AU", "PCM_16"),
    "c.caf": (44_100, 2, "CAF", "PCM_16"),
    "d.w64": (44_100, 2, "W64", "PCM_16"),
    "e.rf64": (44_100, 2, "RF64", "PCM_16"),
}
PYAV = {  # name: container, codec
    "a.m4a": ("mp4", "aac"),
    "lossless.m4a": ("mp4", "alac"),
    "a.aac": ("adts", "aac"),
    "a.wma": ("asf", "wmav2"),
    "a.mka": ("matroska", "ac3"),
}
PYAV_SECONDS, PYAV_RATE_HZ = 3.0, 44_100


@dataclass
class Catalog:
    """The files, the inputs that name them, and the outcome of each listing."""

    folder: Path
    manifest: Path
    labelled: Counter[str] = field(default_factory=Counter)  # listings by file name
    failed: dict[str, str] = field(default_factory=dict)  # reason by file name

    @property
    def listed(self) -> int:
        return sum(self.labelled.values()) + len(self.failed)

    @property
    def inputs(self) -> list[str]:
        return [f"--input={self.folder}", f"--input={self.manifest}"]


def make_catalog(folder: Path) -> Catalog:
    """Synthesise all of it; the manifest names some files again, and some that are not there."""
    music = folder / "music [live]"
    (music / "deep" / "er").mkdir(parents=True)
    catalog = Catalog(music, folder / "manifest.jsonl")
    _add_good(catalog)
    _add_odd(catalog)
    _add_failures(catalog)
    _add_manifest(catalog)
    (music / "cover.jpg").write_bytes(b"\xff\xd8")
    (music / ".hidden.wav").write_bytes(b"RIFF")
    return catalog


def _add_good(catalog: Catalog) -> None:
    for number, (name, (rate, channels, kind, subtype)) in enumerate(SOUNDFILE.items()):
        folder = (catalog.folder, catalog.folder / "deep", catalog.folder / "deep/er")[number % 3]
        sound = sine(1.0 + number / 4, rate, channels, 200.0 + 60 * number)
        write_soundfile(folder / name, sound + noise(1.0 + number / 4, rate, channels, number) / 4,
                        rate, kind, subtype)  # fmt: skip
        catalog.labelled[name] += 1
    for name, (container, codec) in PYAV.items():
        sound = sine(PYAV_SECONDS, PYAV_RATE_HZ, 2, 330.0)
        write_pyav(catalog.folder / name, sound, PYAV_RATE_HZ, container, codec)
        catalog.labelled[name] += 1


def _add_odd(catalog: Catalog) -> None:
    whole = write_soundfile(
        catalog.folder / "truncated.flac", noise(6.0, 22_050, 1), 22_050, "FLAC", "PCM_16"
    )
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    silence = np.zeros((44_100, 2), np.float32)
    write_soundfile(catalog.folder / "silent.wav", silence, 22_050, "WAV", "PCM_16")
    for name in ("truncated.flac", "silent.wav"):
        catalog.labelled[name] += 1


def _add_failures(catalog: Catalog) -> None:
    (catalog.folder / "empty.mp3").write_bytes(b"")
    (catalog.folder / "text.mp3").write_text("This is not music.\n" * 100)
    write_soundfile(catalog.folder / "one sample.wav", sine(1)[:1], 44_100, "WAV", "PCM_16")
    broken = write_soundfile(
        catalog.folder / "corrupt.flac", noise(3.0, 22_050, 1), 22_050, "FLAC", "PCM_16"
    )
    content = broken.read_bytes()
    broken.write_bytes(content[:42] + bytes(len(content) - 42))  # the header says 3 s of FLAC
    catalog.failed |= {
        "empty.mp3": "empty_file",
        "text.mp3": "not_audio",
        "one sample.wav": "too_short",
        "corrupt.flac": "corrupt",
        "missing.mp3": "not_found",
        "": "not_found",
    }


def _add_manifest(catalog: Catalog) -> None:
    folder = catalog.folder.name
    known = {"mood": "calm, slow", "year": 1999, "label": "rock"}
    rows = [
        {"uri": f"{folder}/pcm16.wav", "track_id": "007", **known},
        {"uri": f"{folder}/pcm16.wav", "track_id": "008", **known},
        {"uri": f"{folder}/pcm16.wav", "track_id": "008", **known},  # a plain duplicate
        {"uri": f"{folder}/text.mp3", "track_id": "009"},
        {"uri": f"{folder}/missing.mp3", "track_id": "010"},
        {"uri": None, "track_id": "011"},
    ]
    catalog.labelled["pcm16.wav"] += 1  # two listings, of which the folder's is none
    catalog.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """One run of the program and what it left."""

    output: Path
    status: int
    stdout: str
    stderr: str

    def rows(self, name: str, run_id: str | None = None) -> list[dict[str, Any]]:
        """Rows of a dataset, in an order of their own."""
        rows = ds.dataset(str(self.output / name)).to_table().to_pylist()
        rows = [row for row in rows if run_id in (None, row["run_id"])]
        keys = ("uri", "track_id", "window_index")
        return sorted(rows, key=lambda row: [str(row.get(key)) for key in keys])

    @property
    def records(self) -> list[dict[str, Any]]:
        """All runs/RUN_ID.json, oldest first."""
        paths = (self.output / "runs").glob("*.json")
        records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return sorted(records, key=lambda record: record.get("started_at", ""))

    @property
    def record(self) -> dict[str, Any]:
        """The newest one."""
        return self.records[-1]

    @property
    def newest(self) -> dict[str, list[dict[str, Any]]]:
        """The newest run's rows by dataset."""
        run_id = self.record["run_id"]
        return {name: self.rows(name, run_id) for name in DATASETS}

    @property
    def content(self) -> dict[str, list[dict[str, Any]]]:
        """All runs' rows by dataset, without what names the run or the time."""
        return {name: without_run_columns(self.rows(name)) for name in DATASETS}


def command_line(
    output: Path | str, *options: str, program: str = "pipeline.main"
) -> list[str]:
    """A program as a user would call it."""
    return [sys.executable, "-m", program, f"--output={output}", *options]


def environment(**changes: str) -> dict[str, str]:
    """This process's, with the logging that users have."""
    kept = {name: value for name, value in os.environ.items() if name != "LOG_LEVEL"}
    return kept | changes


def label(output: Path, *options: str) -> Run:
    """Run ``python -m pipeline.main`` as a user would, in a process of its own."""
    done = subprocess.run(
        command_line(output, *options),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return Run(output, done.returncode, done.stdout, done.stderr)


def label_here(output: Path, *options: str) -> Run:
    """The same in this process, which saves the start."""
    from pipeline.main import main

    status = main([f"--output={output}", "--workers=1", "--progress=none", *options])
    return Run(output, status, "", "")


def without_run_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what names the run or the time."""
    return [{k: v for k, v in row.items() if k not in RUN_COLUMNS} for row in rows]
