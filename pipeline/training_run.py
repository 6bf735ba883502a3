"""What all trainings share: where their state is kept, who prepares their data, what they say."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from pipeline import __version__
from pipeline.labelled import LabelledTrack
from pipeline.prepare import RunBeam, on_this_machine, replace_text
from pipeline.program import refuse_existing
from pipeline.runner import check_runner, runner_options
from pipeline.source_files import changed, stamps
from transforms.errors import InputError, UsageError
from transforms.storage.lock import locked

_STATE, _OPTIONS = "training_state", "options.json"
_FREE = ("command", "output", "terms", "threads", "shards", "runner", "beam_args")
"""Options that may differ when a training goes on: they do not change its weights. (Threads may in
the last digit: how PyTorch divides sums among them.)"""


@contextmanager
def training_state(
    options: argparse.Namespace, recipe: Any, tracks: Sequence[LabelledTrack]
) -> Iterator[Path]:
    """The state's folder inside the output: made, or that of an interrupted training.

    At the end it is removed. After a wrong call nothing is left, unless something was trained or
    prepared that another call may go on with.

    Parameters
    ----------
    options : argparse.Namespace
    recipe : dataclass
        All settings of the training.
    tracks : sequence of LabelledTrack
        All that it learns from or is tested on.

    Raises
    ------
    UsageError
        If the output is there already, is of a training of something else, or if another process
        trains there.
    """
    folder: Path = options.output / _STATE
    stated = {"options": _stated(options), **_made_of(recipe, tracks)}
    if not folder.exists():
        refuse_existing(options.output)
    with locked(str(options.output), f"{_STATE}/lock"):  # which makes the folder
        if _is_trained(folder):
            _check_same(options, json.loads((folder / _OPTIONS).read_text()), stated)
            say(f"going on with the interrupted training in {options.output}")
        else:
            _begin(options.output, folder, stated)
        try:
            yield folder
        except UsageError as error:
            if not _is_trained(folder) and not _may_serve(folder, error):
                shutil.rmtree(options.output)
            raise
        shutil.rmtree(folder)


def _is_trained(folder: Path) -> bool:
    return any(folder.glob("*.safetensors"))


def _may_serve(folder: Path, error: UsageError) -> bool:
    """Whether shards are there that serve a corrected call: with other tracks they would not."""
    return not isinstance(error, InputError) and any(folder.glob("shards/*/complete.json"))


def _begin(output: Path, folder: Path, stated: dict[str, Any]) -> None:
    """State what is trained here; what was stated before anything was trained binds nobody."""
    if any(path != folder for path in output.iterdir()):
        shutil.rmtree(folder)  # made by the lock, after another process has finished its training
        refuse_existing(output)
    replace_text(folder / _OPTIONS, json.dumps(stated, indent=2) + "\n")


def _stated(options: argparse.Namespace) -> dict[str, str | None]:
    return {
        name: None if value is None else str(value)
        for name, value in vars(options).items()
        if name not in _FREE
    }


def _made_of(recipe: Any, tracks: Sequence[LabelledTrack]) -> dict[str, Any]:
    """What else decides the weights, as JSON has it."""
    listed = json.dumps(sorted(dataclasses.astuple(track) for track in tracks), default=str)
    content = {
        "version": __version__,
        "recipe": dataclasses.asdict(recipe),
        "tracks": hashlib.sha256(listed.encode()).hexdigest(),
        "files": stamps([track.uri for track in tracks]),
    }
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


def _check_same(
    options: argparse.Namespace, earlier: dict[str, Any], stated: dict[str, Any]
) -> None:
    begun = f"--output={options.output} is an interrupted training"
    for name, value in stated["options"].items():
        if (before := earlier["options"].get(name)) != value:
            was = f"without --{name}" if before is None else f"with --{name}={before}"
            now = "without it" if value is None else f"with {value}"
            raise UsageError(f"{begun} {was}, not {now}; go on as before, or remove the folder")
    again = "remove the folder to train from the beginning"
    others = {
        "version": f"by version {earlier['version']} of this program, this is {__version__}",
        "recipe": "with a recipe that this program no longer has",
        "tracks": "of other tracks, labels, artists or folds",
    }
    for name, told in others.items():
        if earlier[name] != stated[name]:
            raise UsageError(f"{begun} {told}; {again}")
    if uri := changed(earlier.get("files", {}), stated["files"]):
        raise UsageError(f"{begun} from before {uri} changed; {again}")


def preparing_runner(options: argparse.Namespace) -> RunBeam:
    """What runs the pipelines that prepare the data.

    Raises
    ------
    UsageError
        If Beam has no such runner or option.
    """
    beam_options = runner_options(options.runner, options.beam_args)
    FileSystems.set_options(beam_options)  # the data's tables are read here
    if options.runner == "DirectRunner":
        return lambda build: on_this_machine(build, options.beam_args)
    check_runner(options.runner, beam_options)

    def run_beam(build: Callable[[beam.Pipeline], None]) -> None:
        with beam.Pipeline(runner=options.runner, options=beam_options) as pipeline:
            build(pipeline)

    return run_beam


def say(text: str) -> None:
    """A line of progress, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
