"""Pictures of a training or an evaluation, as PNG files (matplotlib, extra [train])."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.judge import Report
from transforms.models.metrics import Evaluation


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure that it made

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def plot_confusion(evaluation: Evaluation, title: str, path: Path) -> None:
    """The confusion matrix with its counts, shaded by the share of each row."""
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 2.5 + 0.6 * len(evaluation.labels)
    figure, axes = _figure(size + 0.8, size)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    ticks = range(len(evaluation.labels))
    axes.set_xticks(ticks, evaluation.labels, rotation=45, ha="right")
    axes.set_yticks(ticks, evaluation.labels)
    axes.set(xlabel="predicted", ylabel="truth", title=title)
    figure.colorbar(image, label="share of the row")
    figure.savefig(path, dpi=120)


def plot_learning_curves(curves: Sequence[dict[str, list[float]]], path: Path) -> None:
    """Training and validation loss, and validation accuracy, by step; one colour per fold."""
    figure, loss_axes = _figure(7, 4)
    accuracy_axes = loss_axes.twinx()
    for index, curve in enumerate(curves):
        style = {"color": f"C{index}", "linewidth": 1.2}
        steps = curve["step"]
        label = "training loss" + (f", fold {index}" if len(curves) > 1 else "")
        loss_axes.plot(steps, curve["train_loss"], label=label, **style)
        if curve["validation_loss"]:
            loss_axes.plot(steps, curve["validation_loss"], linestyle="--", **style)
            accuracy_axes.plot(steps, curve["validation_accuracy"], linestyle=":", **style)
    loss_axes.set(xlabel="step", ylabel="loss (solid: training, dashed: validation)")
    accuracy_axes.set(ylabel="accuracy on unseen artists (dotted)", ylim=(0, 1))
    loss_axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def plot_epochs(history: Sequence[dict[str, float]], label: str, path: Path) -> None:
    """A loss by epoch, that of training and, where there is one, that of validation."""
    figure, axes = _figure(7, 4)
    epochs = [metrics["epoch"] for metrics in history]
    for name in ("train_loss", "validation_loss"):
        if all(name in metrics for metrics in history):
            axes.plot(epochs, [metrics[name] for metrics in history], label=name.replace("_", " "))
    axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    figure.savefig(path, dpi=120)


def plot_improvements(report: Report, path: Path) -> None:
    """Improvement of the SI-SDR by level, one line for each method; one panel for each noise."""
    from matplotlib.figure import Figure

    levels = sorted({judgement.snr_db for judgement in report.mixtures})
    noises = list(dict.fromkeys(judgement.noise for judgement in report.mixtures))
    figure = Figure(figsize=(3 * len(noises), 3.5), layout="constrained")
    for axes, noise in zip(figure.subplots(1, len(noises), sharey=True), noises, strict=True):
        for method in report.methods:
            values = [report.mean(method, noise=noise, snr_db=level) for level in levels]
            axes.plot(levels, values, marker="o", label=method)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=noise, xlabel="noise under the sound, dB")
    figure.axes[0].set_ylabel("SI-SDR improvement, dB")
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def plot_spectrograms(
    rows: Sequence[tuple[str, dict[str, Any]]], sample_rate_hz: int, path: Path
) -> None:
    """Spectrograms side by side: one row for each example, one column for each of its sounds."""
    from matplotlib.figure import Figure

    columns = len(rows[0][1])
    figure = Figure(figsize=(4 * columns, 2.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    for panel_row, (name, sounds) in zip(panels, rows, strict=True):
        loudest = max(float(np.abs(sound).max()) for sound in sounds.values())
        for axes, (title, sound) in zip(panel_row, sounds.items(), strict=True):
            with np.errstate(divide="ignore"):  # digital silence has no decibels
                axes.specgram(sound / max(loudest, 1e-9), NFFT=512, noverlap=256,
                              Fs=sample_rate_hz, vmin=-140, vmax=-40)  # fmt: skip
            axes.set_title(f"{name}: {title}")
        panel_row[0].set_ylabel("Hz")
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    figure.savefig(path, dpi=70)
