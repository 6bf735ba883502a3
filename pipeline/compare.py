"""One file streamed and whole, for each kind of cell: ``python -m pipeline.stream --compare``.

The recogniser that is asked for is trained; networks of its size with each of the four cells and
random weights stand beside it, since a checkpoint has one cell only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.compare_picture import check_picture, plot_comparisons
from transforms.audio.readers import DecodeWarning
from transforms.audio.sandbox import Sandbox
from transforms.errors import CheckpointError, InputError, Reason, StageError, UsageError
from transforms.models.checkpoint import SEQUENCE, Checkpoint, load_checkpoint, read_config
from transforms.models.enhancer import load_enhancer
from transforms.models.front_end import ChannelRule
from transforms.models.sequence import CELLS, SequenceModel, load_weights, settings_of
from transforms.models.untrained import untrained_like
from transforms.models.vit import use_threads
from transforms.preprocess import check_samples
from transforms.records import FloatArray
from transforms.streaming import comparing
from transforms.streaming.comparing import BLOCK_SECONDS, TOLERANCE, Comparison, Subject
from transforms.streaming.recogniser import StreamRecogniser

MOST_SECONDS = 600.0
"""Of a file that are compared."""


@dataclass(frozen=True)
class Recording:
    """The beginning of a file, in mono."""

    samples: FloatArray  # (samples,), full scale is 1.0
    rate_hz: int
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples) / self.rate_hz


def run_compare(
    path: str,
    *,
    model: str,
    half_life_seconds: float | None,
    denoise: str | None,
    picture: Path,
    block_seconds: Sequence[float] | None = None,
    seed: int = 0,
) -> float:
    """Compare a file streamed with the same file whole; print a table, draw a picture.

    Parameters
    ----------
    path : str
        Of the file; its first ``MOST_SECONDS`` are compared.
    model : str
        A recogniser's name or path.
    half_life_seconds : float, optional
        After which what was heard counts half. None: all counts alike.
    denoise : str, optional
        An enhancer's name or path, to be compared, too.
    picture : Path
        PNG file to write; one that is there is replaced.
    block_seconds : sequence of float, optional
        Lengths of blocks to cut the stream into, beside random ones and a single one.
    seed : int
        Of the random weights and cuts.

    Returns
    -------
    float
        The largest difference of a score or a sample. Infinite where two cuts of the stream gave
        different bits.

    Raises
    ------
    UsageError
        If there is no such file or model, or the picture cannot be drawn; before any work.
    StageError
        If the file cannot be decoded.
    """
    check_picture(picture)
    lengths_s = _checked_lengths(block_seconds)
    use_threads(1)  # as in a worker: the bits may depend on it
    checkpoint = _recogniser(model)
    subjects = list(_subjects(checkpoint, half_life_seconds, denoise, seed))
    recording = read_beginning(Path(path), checkpoint.front_end.channel_rule, MOST_SECONDS)
    samples, rate_hz = recording.samples, recording.rate_hz
    all_cuts = list(comparing.cuts(len(samples), rate_hz, seed, lengths_s))
    print(_heading(path, recording, half_life_seconds, seed))
    found = [comparing.compare(subject, samples, rate_hz, all_cuts) for subject in subjects]
    print(to_table(found))
    print(verdict(found))
    plot_comparisons(found, checkpoint.labels, _title(path, recording), picture)
    print(f"picture: {picture}")
    if not all(comparison.equal_cuts for comparison in found):
        return math.inf
    return float(np.max([comparison.largest for comparison in found]))


def read_beginning(path: Path, channel_rule: ChannelRule, most_seconds: float) -> Recording:
    """Decode the beginning of a file in a sandbox, by the channel rule.

    Raises
    ------
    InputError
        If there is no such file.
    StageError
        If it cannot be decoded, or holds no sound.
    """
    if not path.is_file():
        raise InputError(f"--compare={path}: no such file; give one audio file on this machine")
    with (
        Sandbox() as sandbox,
        sandbox.open(path, max_seconds=most_seconds, channel_rule=channel_rule) as audio,
    ):
        blocks = []
        for block in audio.blocks():
            check_samples(block)
            blocks.append(block[:, 0])
    if not blocks:
        raise StageError(Reason.TOO_SHORT, f"{path}: no sound at all")
    return Recording(np.concatenate(blocks), audio.info.sample_rate_hz, tuple(audio.warnings))


def to_table(found: Sequence[Comparison]) -> str:
    """The figures for a terminal."""
    rows = [("", "steps", "largest difference", "at, s", "at own rate", "bits in all cuts",
             "ms per s of sound", "state, bytes")]  # fmt: skip
    rows += [
        (one.name, str(len(one.whole)), f"{one.largest:.2g}", f"{one.largest_at_s:.3f}",
         f"{one.at_own_rate:.2g}", "equal" if one.equal_cuts else "DIFFERENT",
         f"{one.ms_per_second:.1f}", str(one.state_bytes))
        for one in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def verdict(found: Sequence[Comparison]) -> str:
    """What does not hold, one line each, or that all does."""
    lines = []
    for one in found:
        if not one.equal_cuts:
            lines.append(f"{one.name}: the bits depend on how the stream is cut")
        if not one.largest <= TOLERANCE:
            rounding = ""
            if one.at_own_rate <= TOLERANCE:
                rounding = (
                    f"; {one.at_own_rate:.2g} of the same sound at the model's own rate: the rest "
                    "comes from resampling in pieces"
                )
            lines.append(f"{one.name}: differs by {one.largest:.2g}, over {TOLERANCE:g}{rounding}")
    return "\n".join(lines) or f"all within {TOLERANCE:g}, and the same bits in every cut"


def _checked_lengths(block_seconds: Sequence[float] | None) -> Sequence[float]:
    lengths_s = BLOCK_SECONDS if block_seconds is None else block_seconds
    for seconds in lengths_s:
        if not 0 < seconds < math.inf:
            raise UsageError(f"a block of {seconds:g} s: give seconds over 0")
    return lengths_s


def _recogniser(model: str) -> Checkpoint:
    checkpoint = load_checkpoint(model)
    if checkpoint.model_type != SEQUENCE:
        raise CheckpointError(
            f"--model={model}: this model labels windows, it does not follow a stream; give a "
            "recogniser, as digits-gru"
        )
    return checkpoint


def _subjects(
    checkpoint: Checkpoint, half_life_seconds: float | None, denoise: str | None, seed: int
) -> Iterator[Subject]:
    """The recogniser, one untrained network of each cell, and the enhancer."""
    front_end, half_life_frames = checkpoint.front_end, None
    if half_life_seconds is not None:
        half_life_frames = half_life_seconds * front_end.sample_rate_hz / front_end.hop_length
    trained = load_weights(checkpoint.folder, settings_of(read_config(checkpoint.folder)))
    networks = {f"{checkpoint.folder.name} ({trained.settings.cell})": trained}
    networks |= {f"{cell}, untrained": untrained_like(trained, cell, seed) for cell in CELLS}
    for name, network in networks.items():
        recogniser = StreamRecogniser(SequenceModel(network, half_life_frames), front_end)
        yield comparing.recognising(name, recogniser)
    if denoise is not None:
        yield comparing.denoising(f"{Path(denoise).name} (samples)", load_enhancer(denoise))


def _title(path: str, recording: Recording) -> str:
    return f"{Path(path).name}, {recording.seconds:.1f} s at {recording.rate_hz} Hz"


def _heading(path: str, recording: Recording, half_life_seconds: float | None, seed: int) -> str:
    forgets = "none" if half_life_seconds is None else f"{half_life_seconds:g} s"
    lines = [f"{_title(path, recording)}; half-life {forgets}; seed {seed}"]
    if DecodeWarning.TOO_LONG in recording.warnings:
        lines.append(f"the file is longer: only its first {MOST_SECONDS:g} s are compared")
    others = [warning for warning in recording.warnings if warning != DecodeWarning.TOO_LONG]
    lines += [f"decoding: {', '.join(others)}"] if others else []
    return "\n".join(lines)
