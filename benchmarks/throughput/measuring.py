"""Programs run and timed at two sizes, and what their rate and their start-up are."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from benchmarks.memory import peak_mib
from benchmarks.throughput.peers.command import Row
from benchmarks.throughput.systems import System

_TAIL_CHARACTERS = 2_000
_ROOT = Path(__file__).parents[2]

Job: TypeAlias = tuple[System, int]  # and its number of tracks


class ProgramError(Exception):
    """A program failed or gave no usable figures; the message ends with what it last wrote."""


@dataclass
class Measured:
    """What was measured of one system.

    Parameters
    ----------
    seconds : dict
        Wall-clock seconds of each round, by the number of tracks.
    peak_mib : float
        Of all its processes together at the larger size.
    rows : list of dict
        Its output at the larger size.
    error : str
        Why it was given up; empty if it was not.
    """

    seconds: dict[int, list[float]]
    peak_mib: float = 0.0
    rows: list[Row] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True)
class Rate:
    """A system's speed, from two sizes."""

    startup_s: float
    tracks_per_s: float


def marginal_rate(seconds: Mapping[int, Sequence[float]]) -> Rate:
    """Start-up and marginal rate from the medians at two sizes.

    Parameters
    ----------
    seconds : mapping of int to sequence of float
        Wall-clock seconds of each round, by the number of tracks.

    Returns
    -------
    Rate
        Of the tracks that the larger size has more, and what remains of the smaller size's time.

    Raises
    ------
    ProgramError
        If the larger size took no longer.
    """
    small, large = sorted(seconds)
    first_s, second_s = (statistics.median(seconds[size]) for size in (small, large))
    if second_s <= first_s:
        raise ProgramError(
            f"{large} tracks took {second_s:.1f} s, {small} took {first_s:.1f} s: choose --sizes "
            "further apart"
        )
    rate = (large - small) / (second_s - first_s)
    return Rate(first_s - small / rate, rate)


def rounds_order(jobs: Sequence[Job], rounds: int) -> list[Job]:
    """All jobs once a round, backwards in every other: a drift of the machine falls on all."""
    return [job for number in range(rounds) for job in (jobs[::-1] if number % 2 else jobs)]


def run_program(
    command: Sequence[str], log: Path, timeout_seconds: float, *, sampled: bool = False
) -> tuple[float, float]:
    """Run a program to its end, on the CPU; a GPU is hidden from it.

    Parameters
    ----------
    command : sequence of str
    log : Path
        Where its output goes.
    timeout_seconds : float
    sampled : bool
        Whether to sample its memory, which takes some of a core.

    Returns
    -------
    seconds : float
        Wall-clock.
    peak_mib : float
        0 if not sampled.

    Raises
    ------
    ProgramError
        If it ends with a status other than 0, or is killed after ``timeout_seconds``.
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as file:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdout=file, stderr=file, text=True, cwd=_ROOT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        timer = threading.Timer(timeout_seconds, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        try:
            peak = peak_mib(process) if sampled else 0.0
            process.wait()
        except BaseException:  # an interrupt from the keyboard, above all
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
        seconds = time.monotonic() - started
    if process.returncode:
        tail = log.read_text(errors="replace")[-_TAIL_CHARACTERS:].strip()
        raise ProgramError(f"status {process.returncode} after {seconds:.0f} s\n{tail}")
    return seconds, peak


def check_rows(rows: Sequence[Row], tracks: Sequence[Path]) -> None:
    """Raise ProgramError unless there is one row for each track."""
    if sorted(row["path"] for row in rows) != sorted(map(str, tracks)):
        raise ProgramError(f"its {len(rows)} rows are not one for each of the {len(tracks)} tracks")


@dataclass(frozen=True)
class Measurement:
    """How systems are measured.

    Parameters
    ----------
    tracks : sequence of Path
        As many as the larger size; the smaller one takes the first of them.
    sizes : (int, int)
        The smaller one first.
    model : Path
        Checkpoint folder.
    rounds : int
    timeout_seconds : float
        For one run.
    say : callable
        Given a line about each run.
    """

    tracks: Sequence[Path]
    sizes: tuple[int, int]
    model: Path
    rounds: int
    timeout_seconds: float
    say: Callable[[str], None]

    def measure(self, systems: Sequence[System]) -> dict[System, Measured]:
        """Run each system once to warm up, then at both sizes in each round.

        The first run gives the rows and the peak memory, and is not timed: sampling the memory
        would slow it down. A system that fails is not run again, and carries the error.
        """
        results = {system: Measured({size: [] for size in self.sizes}) for system in systems}
        for system in systems:
            self._attempt(system, self.sizes[1], results[system], sampled=True)
        jobs = [(system, size) for system in systems for size in self.sizes]
        for system, size in rounds_order(jobs, self.rounds):
            self._attempt(system, size, results[system])
        return results

    def _attempt(
        self, system: System, size: int, result: Measured, *, sampled: bool = False
    ) -> None:
        if result.error:
            return
        try:
            seconds, peak, rows = self._run(system, size, sampled)
        except (ProgramError, OSError) as error:  # OSError: it wrote no rows
            result.error = f"{size} tracks: {error}"
            self.say(f"{system}: {result.error}")
            return
        if sampled:
            result.peak_mib, result.rows = peak, rows
        else:
            result.seconds[size].append(seconds)
        note = f", peak {peak:,.0f} MiB (warming up)" if sampled else ""
        self.say(f"{system}: {size} tracks in {seconds:.1f} s{note}")

    def _run(self, system: System, size: int, sampled: bool) -> tuple[float, float, list[Row]]:
        tracks = self.tracks[:size]
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            command = system.command(tracks, self.model, folder)
            log = folder / "log.txt"
            seconds, peak = run_program(command, log, self.timeout_seconds, sampled=sampled)
            rows = system.read_rows(folder)
        check_rows(rows, tracks)
        return seconds, peak, rows
