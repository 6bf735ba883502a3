"""Training of what labels: the ViT, and recognisers with a recurrent or convolutional cell."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import model_card
from pipeline.cross_validation import (
    FoldResult,
    Learner,
    TrainingSet,
    calibrate,
    check_splits,
    cross_validate,
    load_windows,
    out_of_fold_scores,
)
from pipeline.fit_recogniser import RecogniserLearner, RecogniserRecipe
from pipeline.fit_vit import Recipe, ViTLearner, load_training_set
from pipeline.labelled import LabelledTrack, assign_folds, load_labelled
from pipeline.prepare import Shards
from pipeline.training_run import preparing_runner, say, training_state
from transforms.augment import Augmentation
from transforms.errors import UsageError
from transforms.models.front_end import PRESETS, FrontEnd
from transforms.models.recogniser import suits_recogniser
from transforms.sequence_augment import SequenceAugmentation

_FRONT_ENDS = {("genre", True): "spectra", ("genre", False): "music_frames",
               ("recognise", False): "speech_frames"}  # fmt: skip
_EPOCHS = {"genre": 12, "recognise": 20}
_MUSIC = SequenceAugmentation(stretch=0.2, warp=0.06, noise=0.2, pad_frames=0)
_SPEECH = SequenceAugmentation(eq_db=5.0, mask_bands=4, mask_frames=4)


def train_classifier(options: argparse.Namespace) -> None:
    """Prepare, cross-validate, train on everything, write the checkpoint and its card."""
    front_end = _front_end(options)
    run_beam = preparing_runner(options)
    tracks = _load_tracks(options)
    torch.set_num_threads(options.threads)
    recipe: Recipe | RecogniserRecipe
    if options.cell == "vit":
        recipe = _vit_recipe(options, front_end)
    else:
        recipe = _recogniser_recipe(options, front_end)
    if options.cross_validate:
        check_splits(tracks, recipe.held_out_share, recipe.seed)
    with training_state(options, recipe, tracks) as state_folder:
        shards = Shards((options.shards or state_folder / "shards").absolute(), run_beam)
        say(f"{len(tracks)} tracks of {len({t.artist for t in tracks})} artists: making windows")
        learner: Learner
        if isinstance(recipe, Recipe):
            learner = ViTLearner(recipe, state_folder)
            data = load_training_set(tracks, recipe, shards)
        else:
            learner = RecogniserLearner(recipe, state_folder, say)
            data = load_windows(tracks, front_end, "frames", shards)
        _train_all(options, learner, data)


def _front_end(options: argparse.Namespace) -> FrontEnd:
    """The preset, if the cell can be trained on it and the masks fit into its images."""
    is_vit = options.cell == "vit"
    front_end = PRESETS[options.front_end or _FRONT_ENDS[options.task, is_vit]]
    if not is_vit and not suits_recogniser(front_end):
        fitting = [name for name, preset in PRESETS.items() if suits_recogniser(preset)]
        raise UsageError(
            f"--front_end={options.front_end} looks at whole windows, or resizes them; "
            f"--cell={options.cell} takes {' or '.join(fitting)}"
        )
    limits = {"mask_bands": front_end.image_height - 1, "mask_columns": front_end.image_width - 1}
    for name, largest in limits.items():
        value = getattr(options, name)
        if value is not None and value > largest:
            raise UsageError(f"--{name}={value}: must be from 0 to {largest}")
    return front_end


def _load_tracks(options: argparse.Namespace) -> list[LabelledTrack]:
    """The tracks with their folds, then those of --also without one: no fold is tested on them."""
    tracks = load_labelled(options.data, options.root)
    if options.cross_validate:
        tracks = assign_folds(tracks)
    labels = {track.label for track in tracks}
    if options.merge and not set(options.merge.split("+")) <= labels:
        raise UsageError(f"--merge={options.merge}: the labels are {', '.join(sorted(labels))}")
    if not options.also:
        return tracks
    also = load_labelled(options.also, options.root, least_labels=1, option="--also")
    if strange := sorted({track.label for track in also} - labels):
        raise UsageError(f"--also={options.also}: {', '.join(strange)}: not among --data's labels")
    known = {track.uri for track in tracks}
    if twice := next((track.uri for track in also if track.uri in known), None):
        raise UsageError(f"--also={options.also}: {twice} is in --data too, and would be tested")
    return [*tracks, *(dataclasses.replace(track, fold=None) for track in also)]


def _vit_recipe(options: argparse.Namespace, front_end: FrontEnd) -> Recipe:
    masks = {"mask_bands": options.mask_bands, "mask_columns": options.mask_columns}
    recipe = Recipe(
        front_end=front_end,
        seed=options.seed,
        held_out_share=options.held_out_share,
        augmentation=dataclasses.replace(Augmentation(), **_given(masks)),
    )
    settings = dataclasses.replace(recipe.settings, **_given({"steps": options.steps}))
    return dataclasses.replace(recipe, settings=settings)


def _recogniser_recipe(options: argparse.Namespace, front_end: FrontEnd) -> RecogniserRecipe:
    masks = {"mask_bands": options.mask_bands, "mask_frames": options.mask_columns}
    speech = options.task == "recognise"
    augmentation = _SPEECH if speech else _MUSIC
    return RecogniserRecipe(
        front_end=front_end,
        cell=options.cell,
        epochs=options.epochs or _EPOCHS[options.task],
        seed=options.seed,
        held_out_share=options.held_out_share,
        augmentation=dataclasses.replace(augmentation, **_given(masks)),
        peak_range_db=45.0 if speech else 0.0,  # whoever speaks louder says the same
        peak_decay_db=6.0 if speech else 0.0,
        **_given({"hidden_size": options.hidden_size, "layers": options.layers}),
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _train_all(options: argparse.Namespace, learner: Learner, data: TrainingSet) -> None:
    folds = _cross_validate(data, learner) if options.cross_validate else []
    temperature, threshold = calibrate(data, folds) if folds else (1.0, 0.0)
    steps = int(np.median([fold.trained.best_step for fold in folds])) if folds else None
    say(f"training on all {len(data.truth)} tracks")
    trained = learner.fit(
        data, np.arange(len(data.truth)), name="all", seed=learner.seed, stop_after=steps
    )
    output: Path = options.output
    learner.save(
        trained, output, data.labels, temperature=temperature, unknown_threshold=threshold
    )
    report = model_card.report(
        options, learner.recipe, data, folds, trained, temperature, threshold
    )
    model_card.write(output, report, folds)


def _cross_validate(data: TrainingSet, learner: Learner) -> list[FoldResult]:
    folds = []
    for result in cross_validate(data, learner):
        folds.append(result)
        predicted = out_of_fold_scores(data, [result])[result.tracks].argmax(axis=1)
        accuracy = (predicted == data.truth[result.tracks]).mean()
        say(f"fold {result.fold}: accuracy {accuracy:.3f}, stopped at {result.trained.best_step}")
    return folds
