"""What all trainings share: where their state is kept, who prepares their data, what they say."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import apache_beam as beam

from pipeline.prepare import Shards, on_this_machine
from pipeline.program import refuse_existing
from pipeline.runner import check_runner, runner_options
from transforms.errors import UsageError

_STATE, _OPTIONS = "training_state", "options.json"
_FREE = ("command", "output", "terms", "threads", "shards", "runner", "beam_args")
"""Options that may differ when a training goes on: they do not change its weights. (Threads may in
the last digit: how PyTorch divides sums among them.)"""


def begin(options: argparse.Namespace) -> Path:
    """Make the output's state folder, or find that of an interrupted training.

    Raises
    ------
    UsageError
        If the output is there already, or is of a training with other options.
    """
    folder: Path = options.output / _STATE
    stated = {name: str(value) for name, value in vars(options).items() if name not in _FREE}
    path = folder / _OPTIONS
    if not path.exists():
        refuse_existing(options.output)
        folder.mkdir(parents=True)
        path.write_text(json.dumps(stated, indent=2) + "\n")
        return folder
    earlier = json.loads(path.read_text())
    for name, value in stated.items():
        if earlier.get(name) != value:
            raise UsageError(
                f"--output={options.output} is an interrupted training with --{name}="
                f"{earlier.get(name)}, not {value}; go on with that, or remove the folder"
            )
    say(f"going on with the interrupted training in {options.output}")
    return folder


def finish(options: argparse.Namespace) -> None:
    """Remove the state of a training that is over."""
    shutil.rmtree(options.output / _STATE)


def shards_of(options: argparse.Namespace, state_folder: Path) -> Shards:
    """Where the prepared data go, and the runner that prepares them.

    Raises
    ------
    UsageError
        If Beam has no such runner or option.
    """
    folder = options.shards or state_folder / "shards"
    if options.runner == "DirectRunner" and not options.beam_args:
        return Shards(folder, on_this_machine)
    beam_options = runner_options(options.runner, options.beam_args)
    check_runner(options.runner, beam_options)

    def run_beam(build: Callable[[beam.Pipeline], None]) -> None:
        with beam.Pipeline(runner=options.runner, options=beam_options) as pipeline:
            build(pipeline)

    return Shards(folder.absolute(), run_beam)


def say(text: str) -> None:
    """A line of progress, with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
