"""Training of what removes noise, and its figures on performers that it has not heard."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import __version__
from pipeline.fit_enhancer import EnhancerRecipe, fit_enhancer
from pipeline.fit_recogniser import to_line
from pipeline.judge import EACH, Report, judge, methods_beside
from pipeline.labelled import LabelledTrack, assign_folds, load_labelled
from pipeline.mixtures import Recordings
from pipeline.plots import plot_epochs, plot_improvements
from pipeline.prepare import Shards
from pipeline.training_run import preparing_runner, say, training_state
from transforms.errors import InputError, UsageError
from transforms.models.enhancer import Enhancer, SpectrumFrontEnd
from transforms.models.front_end import FrontEnd
from transforms.models.sequence import SequenceModel, save_weights
from transforms.models.sequence_training import Fitted

_PIECE_SECONDS = 10.0  # of a recording in the shards
_EPOCHS = 40

_CARD = """\
---
license: other
tags: [audio-to-audio, denoising, streaming]
---
# {name}

A causal {cell} that removes noise: a magnitude mask over {bins} bins ({n_fft}-point spectra
every {hop} samples at {rate} Hz), the phase is kept. {parameters:,} parameters, a delay of
{delay:.0f} ms.

## What it can and cannot do

- It was trained on {recordings} clean recordings ({kinds}) by {performers} performers, mixed with
  synthesised noise: white, pink, hum, clicks, and babble of other recordings.
- It hears up to {nyquist} Hz. What is over that is treated like the highest quarter of what it
  hears.
- It does not restore what noise has covered, and it cannot tell one voice from another.

## Training data

{terms}

## Figures

Improvement of the scale-invariant SDR in decibels, on performers that it has not heard (fold
{fold}):

{table}

Beside noisereduce's spectral gating on the same mixtures: stationary {gate:+.1f} dB, moving
{moving:+.1f} dB, this model {mean:+.1f} dB on average. Clean recordings become {loss:.2f} dB
quieter (at most {largest:.2f} dB).

## How it was made

    {command}

Software version {version}. All settings and the learning curve are in `training.json`.
"""


def load_recordings(
    tracks: list[LabelledTrack], front_end: SpectrumFrontEnd, shards: Shards
) -> Recordings:
    """Clean recordings as samples at the enhancer's rate, in pieces of ten seconds.

    Raises
    ------
    InputError
        If one cannot be decoded, or holds nothing but silence.
    """
    prepared = FrontEnd(
        sample_rate_hz=front_end.sample_rate_hz,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        n_mels=1,
        fmin_hz=0.0,
        fmax_hz=front_end.sample_rate_hz / 2,
        top_db=80.0,
        image_height=1,
        image_width=1,
        window_seconds=_PIECE_SECONDS,
        hop_seconds=_PIECE_SECONDS,
    )
    windows = shards.windows([track.uri for track in tracks], prepared, "samples")
    for uri, message in windows.failures.items():
        raise InputError(f"{uri}: {message}; remove it from --data ({len(windows.failures)} such)")
    heard = {tracks[index].uri for index in windows.track}
    if silent := [track.uri for track in tracks if track.uri not in heard]:
        raise InputError(f"{silent[0]}: only silence; remove it from --data ({len(silent)} such)")
    return Recordings(
        windows.images,
        [tracks[index].label for index in windows.track],
        [tracks[index].artist for index in windows.track],
        front_end.sample_rate_hz,
    )


def train_enhancer(options: argparse.Namespace) -> None:
    """Prepare, train, judge, write the checkpoint and its card."""
    run_beam = preparing_runner(options)
    tracks = assign_folds(load_labelled(options.data, options.root, least_labels=1))
    learned = {track.artist for track in tracks if track.fold != options.test_fold}
    unheard = {track.artist for track in tracks if track.fold == options.test_fold} - learned
    if not unheard or not learned:
        folds = sorted({track.fold for track in tracks if track.fold is not None})
        raise UsageError(
            f"--test_fold={options.test_fold}: no performer is in that fold alone, or none is left "
            f"to learn from; the folds are {', '.join(map(str, folds))}"
        )
    recipe = _recipe(options)
    torch.set_num_threads(options.threads)
    with training_state(options, recipe, tracks) as state_folder:
        shards = Shards((options.shards or state_folder / "shards").absolute(), run_beam)
        rate_hz = recipe.front_end.sample_rate_hz
        say(f"{len(tracks)} recordings: preparing samples at {rate_hz} Hz")
        recordings = load_recordings(tracks, recipe.front_end, shards)
        held_out = held_out_performers(learned, recipe)
        fitted = fit_enhancer(
            recordings.of(learned - held_out),
            recipe,
            held_out=recordings.of(held_out) if held_out else None,
            state_path=state_folder / "all.safetensors",
            report=lambda metrics: say(to_line(metrics)),
        )
        say("judging, beside spectral gating")
        report = _judge(options, recordings.of(unheard), fitted, recipe)
        save_weights(fitted.network, options.output, {})
        recipe.front_end.save(options.output)
        count = sum(track.artist in learned for track in tracks)
        content = _content(options, recipe, recordings.of(learned), count, fitted, report)
        _write(options.output, content, report)


def held_out_performers(learned: set[str], recipe: EnhancerRecipe) -> set[str]:
    """Performers whose loss says when to stop, drawn from the seed; none where the share is 0.

    Raises
    ------
    UsageError
        If none would be left to learn from.
    """
    count = math.ceil(recipe.held_out_share * len(learned))
    if count and count >= len(learned):
        raise UsageError(
            f"--held_out_share={recipe.held_out_share}: {len(learned)} performers are too few to "
            "hold some of them out"
        )
    rng = np.random.default_rng(recipe.seed)
    return {str(name) for name in rng.permutation(sorted(learned))[:count]}


def _judge(
    options: argparse.Namespace, unheard: Recordings, fitted: Fitted, recipe: EnhancerRecipe
) -> Report:
    enhancer = Enhancer(SequenceModel(fitted.network), recipe.front_end)
    each = options.test_mixtures or EACH
    return judge(unheard, methods_beside(enhancer), each=each, seed=options.seed)


def _recipe(options: argparse.Namespace) -> EnhancerRecipe:
    names = ("hidden_size", "layers", "steps_per_epoch", "clip_seconds")
    given = {name: getattr(options, name) for name in names}
    return EnhancerRecipe(
        cell=options.cell,
        epochs=options.epochs or _EPOCHS,
        seed=options.seed,
        held_out_share=options.held_out_share,
        **{name: value for name, value in given.items() if value is not None},
    )


def _content(
    options: argparse.Namespace, recipe: EnhancerRecipe, learned: Recordings, count: int,
    fitted: Fitted, report: Report,
) -> dict[str, Any]:  # fmt: skip
    return {
        "name": options.output.name,
        "command": options.command,
        "version": __version__,
        "task": options.task,
        "terms": options.terms,
        "test_fold": options.test_fold,
        "recordings": count,
        "seconds": round(sum(map(len, learned.samples)) / learned.sample_rate_hz),
        "kinds": sorted(set(learned.kinds)),
        "performers": len(set(learned.performers)),
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(p.numel() for p in fitted.network.parameters()),
        "epochs": fitted.best_epoch,
        "history": fitted.history,
        "improvement_db": report.to_json(),
    }


def _write(folder: Path, content: dict[str, Any], report: Report) -> None:
    (folder / "training.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "README.md").write_text(card(content))
    plot_epochs(content["history"], "loss, decibels", folder / "learning_curve.png")
    plot_improvements(report, folder / "improvement.png")


def card(content: dict[str, Any]) -> str:
    """The model card, Markdown."""
    front_end = content["recipe"]["front_end"]
    found = content["improvement_db"]
    own = found["model"]
    return _CARD.format(
        name=content["name"],
        cell=content["recipe"]["cell"].upper(),
        bins=front_end["n_fft"] // 2 + 1,
        n_fft=front_end["n_fft"],
        hop=front_end["hop_length"],
        rate=front_end["sample_rate_hz"],
        delay=1e3 * front_end["n_fft"] / front_end["sample_rate_hz"],
        nyquist=front_end["sample_rate_hz"] // 2,
        parameters=content["parameters"],
        recordings=content["recordings"],
        kinds=", ".join(content["kinds"]),
        performers=content["performers"],
        terms=content["terms"],
        fold=content["test_fold"],
        table=table(own["by_noise_and_level"]),
        gate=found["spectral gate"]["mean"],
        moving=found["spectral gate, moving"]["mean"],
        mean=own["mean"],
        loss=own["clean"]["loss_db"],
        largest=own["clean"]["largest_loss_db"],
        command=content["command"],
        version=content["version"],
    )


def table(by_noise: dict[str, dict[str, float]]) -> str:
    """Improvements by noise (rows) and level (columns), Markdown."""
    levels = list(next(iter(by_noise.values())))
    lines = [
        "| noise | " + " | ".join(f"{level} dB" for level in levels) + " | mean |",
        "|---" * (len(levels) + 2) + "|",
    ]
    for noise, values in by_noise.items():
        cells = [f"{value:+.1f}" for value in [*values.values(), np.mean(list(values.values()))]]
        lines.append(f"| {noise} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
