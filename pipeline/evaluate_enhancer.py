"""Evaluation of what removes noise, on mixtures of clean recordings; see pipeline.evaluate."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from pipeline.judge import EACH, Report, judge, methods_beside
from pipeline.labelled import assign_folds, load_labelled
from pipeline.mixtures import Recordings, example_mixture
from pipeline.plots import plot_improvements, plot_spectrograms
from pipeline.prepare import Shards
from pipeline.train_enhancer import load_recordings, table
from transforms.errors import UsageError
from transforms.models.enhancer import Enhancer, load_enhancer
from transforms.noises import Noise

_PICTURED: tuple[Noise, ...] = ("pink", "hum", "clicks")


def evaluate_enhancer(options: argparse.Namespace) -> None:
    """Judge an enhancer beside spectral gating; write evaluation.json and pictures.

    Raises
    ------
    UsageError
        If the data or the checkpoint cannot be used.
    """
    enhancer, seed = load_enhancer(options.model), options.seed or 0
    tracks = load_labelled(options.data, options.root, least_labels=1)
    if options.fold is not None:
        tracks = assign_folds(tracks)  # as the training did, where none are stated
        tracks = [track for track in tracks if track.fold == options.fold]
    if not tracks:
        raise UsageError(f"--fold={options.fold}: --data={options.data} has no recording in it")
    with tempfile.TemporaryDirectory() as folder:
        recordings = load_recordings(tracks, enhancer.front_end, Shards(Path(folder)))
    report = judge(recordings, methods_beside(enhancer), each=EACH, seed=seed)
    content = {"model": options.model, "data": options.data, "fold": options.fold,
               "seed": seed, "improvement_db": report.to_json()}  # fmt: skip
    (options.output / "evaluation.json").write_text(json.dumps(content, indent=2) + "\n")
    plot_improvements(report, options.output / "improvement.png")
    picture(enhancer, recordings, seed, options.output / "spectrograms.png")
    print(to_text(report))
    print(f"results: {options.output}")


def picture(enhancer: Enhancer, recordings: Recordings, seed: int, path: Path) -> None:
    """Spectrograms of a few mixtures before and after, and of the clean sound."""
    rows = []
    for noise in _PICTURED:
        mixture = example_mixture(recordings, noise, seed=seed)
        enhanced = enhancer.enhance(mixture.noisy[None])[0][0]
        rows.append((noise, {"noisy": mixture.noisy, "enhanced": enhanced,
                             "clean": mixture.clean}))  # fmt: skip
    plot_spectrograms(rows, recordings.sample_rate_hz, path)


def to_text(report: Report) -> str:
    """The figures for a terminal."""
    parts = []
    for method, found in report.to_json().items():
        clean = found["clean"]
        kinds = ", ".join(f"{kind} {value:+.1f}" for kind, value in found["by_kind"].items())
        parts.append(
            f"{method}: SI-SDR improvement {found['mean']:+.2f} dB ({kinds})\n"
            f"clean input: {clean['loss_db']:.2f} dB quieter on average, "
            f"{clean['largest_loss_db']:.2f} at most; SI-SDR {clean['si_sdr_db']:.1f} dB (median)\n"
            f"{table(found['by_noise_and_level'])}\n"
        )
    return "\n".join(parts)
