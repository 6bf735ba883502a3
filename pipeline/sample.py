"""Synthesises a small music catalog to try the pipeline on: ``python -m pipeline.sample``.

Twenty short tracks of clearly different kinds in nested folders, as WAV, FLAC, Ogg Vorbis and
MP3, mono and stereo, at several sample rates; then a damaged file and a text file that is
called .mp3, so that a run has failures to show. Nothing is downloaded.

Every instrument is a function to one note, mono samples at ``rate`` Hz; every kind of track is
a function ``(seconds, rate, rng)`` to stereo samples of shape (frames, 2).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile
from scipy import signal

from transforms.errors import UsageError

Samples: TypeAlias = npt.NDArray[np.float64]
Number: TypeAlias = float | np.integer
Kind: TypeAlias = Callable[[float, int, np.random.Generator], Samples]

PEAK = 0.8  # of full scale: lossy codecs overshoot
MAJOR, MINOR, FIFTH = (0, 4, 7), (0, 3, 7), (0, 7, 12)  # semitones above the root
POP_CHORDS = ((0, MAJOR), (7, MAJOR), (9, MINOR), (5, MAJOR))  # semitones above the key, chord
VOWELS_HZ = ((800, 1150, 2900), (350, 2000, 2800), (450, 800, 2830))  # formants of a, e, o


# Instruments: one note each, mono.
def hz(midi: Number) -> float:
    """Frequency in Hz of a MIDI note number (69 is 440 Hz)."""
    return float(440.0 * 2.0 ** ((midi - 69.0) / 12.0))


def clock(seconds: float, rate: int) -> Samples:
    """Times in seconds of the samples of a sound ``seconds`` long, at least one sample."""
    return np.arange(max(1, round(seconds * rate))) / rate


def fade(sound: Samples, rate: int, attack_s: float, release_s: float) -> Samples:
    """Raise and lower the ends of a mono sound linearly."""
    t = clock(len(sound) / rate, rate)
    ends = np.minimum(t / attack_s, (t[-1] - t) / release_s)
    return np.asarray(sound * np.clip(ends, 0, 1))


def partials(phase: Samples, frequency_hz: float, rate: int, limit: int, tilt: float) -> Samples:
    """Harmonics 1..limit with amplitudes ``n ** -tilt``, none above half the sample rate."""
    count = max(1, min(limit, int(rate / 2 / (frequency_hz * 1.03))))
    before: Samples = np.zeros(len(phase))
    twice_cos, wave = 2 * np.cos(phase), np.sin(phase)
    total = wave.copy()
    for n in range(2, count + 1):  # sin(n x) = 2 cos(x) sin((n - 1) x) - sin((n - 2) x)
        before, wave = wave, twice_cos * wave - before
        total += wave * n**-tilt
    return total


def tone(midi: Number, seconds: float, rate: int, *, limit: int = 24, tilt: float = 1.0) -> Samples:
    """A steady harmonic tone; ``tilt`` 1 is a sawtooth, more is softer."""
    phase = 2 * np.pi * hz(midi) * clock(seconds, rate)
    return partials(phase, hz(midi), rate, limit, tilt)


def bowed(midi: Number, seconds: float, rate: int) -> Samples:
    """A string section: three detuned sawtooths that swell and die away."""
    voices = [tone(midi + cents / 100, seconds, rate, tilt=1.3) for cents in (-7, 0, 6)]
    return fade(np.sum(voices, axis=0) / 3, rate, min(0.4, seconds / 3), min(0.5, seconds / 3))


def plucked(midi: Number, seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """A plucked string after Karplus and Strong: a burst of noise in a damped delay line."""
    delay = max(2, round(rate / hz(midi)))
    burst = np.zeros(len(clock(seconds, rate)))
    burst[:delay] = rng.uniform(-1, 1, delay)[: len(burst)]
    line = np.zeros(delay + 2)
    line[0], line[delay], line[delay + 1] = 1.0, -0.498, -0.498
    return fade(signal.lfilter([1.0], line, burst), rate, 0.001, 0.05)


def struck(midi: Number, seconds: float, rate: int) -> Samples:
    """A piano-like note: slightly stretched partials, the high ones dying first."""
    t = clock(seconds, rate)
    note = np.zeros(len(t))
    for n in range(1, 11):
        frequency_hz = n * hz(midi) * np.sqrt(1 + 4e-4 * n * n)
        note += np.sin(2 * np.pi * frequency_hz * t) * np.exp(-(0.9 + 0.7 * n) * t) / n
    return fade(note, rate, 0.004, 0.05)


def sung(midi: Number, seconds: float, rate: int, vowel: Sequence[float]) -> Samples:
    """A voice-like note: a pulse with vibrato through the resonances of a vowel, in Hz."""
    t = clock(seconds, rate)
    phase = 2 * np.pi * hz(midi) * t + 0.35 * hz(midi) / 110 * np.sin(2 * np.pi * 5.5 * t)
    source = partials(phase, hz(midi), rate, 40, 0.9)
    peaks = [signal.lfilter(*signal.iirpeak(peak_hz, 8, fs=rate), source) for peak_hz in vowel]
    return fade(np.array([1.0, 0.6, 0.3]) @ peaks, rate, 0.06, 0.12)


def noise(
    seconds: float, rate: int, rng: np.random.Generator, low_hz: float, high_hz: float
) -> Samples:
    """White noise between two frequencies."""
    band = (low_hz, min(high_hz, 0.49 * rate))
    sos = signal.butter(2, band, "bandpass", fs=rate, output="sos")
    return np.asarray(signal.sosfilt(sos, rng.standard_normal(len(clock(seconds, rate)))))


def kick(rate: int) -> Samples:
    """A bass drum: a sine that falls from 170 to 45 Hz."""
    t = clock(0.3, rate)
    fall = np.sin(2 * np.pi * (45 * t - 125 / 30 * np.exp(-30 * t)))
    return np.asarray(fall * np.exp(-9 * t))


def snare(rate: int, rng: np.random.Generator) -> Samples:
    """A snare drum: a short tone under a burst of noise."""
    t = clock(0.22, rate)
    rattle = noise(0.22, rate, rng, 900, 9000)
    return np.asarray((np.sin(2 * np.pi * 185 * t) + rattle) * np.exp(-16 * t) * 0.6)


def hat(rate: int, rng: np.random.Generator) -> Samples:
    """A closed hi-hat: a very short burst of high noise."""
    return np.asarray(noise(0.07, rate, rng, 6000, 15000) * np.exp(-60 * clock(0.07, rate)))


# Mixing: notes into a track.
def silence(seconds: float, rate: int) -> Samples:
    """An empty stereo track, shape (frames, 2)."""
    return np.zeros((len(clock(seconds, rate)), 2))


def place(
    mix: Samples, sound: Samples, at_s: float, rate: int, gain: float = 1.0, pan: float = 0.0
) -> None:
    """Add a mono sound to ``mix`` in place, cut at its end; pan -1 is left, 1 right."""
    start = round(at_s * rate)
    room = mix[start : start + len(sound)]
    sides = gain * np.sqrt([(1 - pan) / 2, (1 + pan) / 2])
    room += sound[: len(room), np.newaxis] * sides


def normalised(mix: Samples) -> Samples:
    """Remove the DC offset and scale to ``PEAK`` of full scale."""
    centred = mix - mix.mean(axis=0)
    return np.asarray(centred * (PEAK / max(float(np.abs(centred).max()), 1e-9)))


def beats(seconds: float, beat_s: float) -> range:
    """Numbers of the beats that start within ``seconds``."""
    return range(int(np.ceil(seconds / beat_s)))


# Kinds of tracks.
def strings(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """Slow chords of a string section."""
    mix, key, bar_s = silence(seconds, rate), rng.integers(48, 56), rng.uniform(2.4, 3.2)
    for bar in beats(seconds, bar_s):
        root, chord = POP_CHORDS[rng.integers(4)]
        for voice, step in enumerate((-12, *chord, 12)):
            sound = bowed(key + root + step, bar_s * 1.15, rate)
            place(mix, sound, bar * bar_s, rate, pan=voice / 2.5 - 0.8)
    return mix


def arpeggio(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """A plucked string that runs up and down chords."""
    mix, key, step_s = silence(seconds, rate), rng.integers(50, 58), rng.uniform(0.14, 0.2)
    for step in beats(seconds, step_s):
        root, chord = POP_CHORDS[step // 8 % 4]
        notes = (*chord, 12, 16, 12, *chord[:0:-1])
        sound = plucked(key + root + notes[step % 8], 1.2, rate, rng)
        place(mix, sound, step * step_s, rate, pan=0.4 * (-1) ** step)
    return mix


def piano(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """Broken chords and a melody of struck strings."""
    mix, key, step_s = silence(seconds, rate), rng.integers(52, 60), rng.uniform(0.28, 0.5)
    for step in beats(seconds, step_s):
        root, chord = POP_CHORDS[step // 6 % 4]
        low = struck(key + root - 12 + chord[step % 3], 2.0, rate)
        place(mix, low, step * step_s, rate, gain=0.7, pan=-0.3)
        if rng.random() < 0.5:
            high = struck(key + root + 12 + chord[rng.integers(3)], 2.0, rate)
            place(mix, high, step * step_s, rate, gain=rng.uniform(0.5, 1), pan=0.3)
    return mix


def electronic(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """Four bass drums to the bar, off-beat hi-hats and a sawtooth bass."""
    mix, key, beat_s = silence(seconds, rate), rng.integers(31, 40), 60 / rng.uniform(122, 140)
    riff = rng.choice([0, 0, 0, 3, 7, 10, 12], 16)
    for beat in beats(seconds, beat_s):
        place(mix, kick(rate), beat * beat_s, rate, gain=1.2)
        place(mix, hat(rate, rng), (beat + 0.5) * beat_s, rate, gain=0.7, pan=0.2)
        for quarter in range(4):
            note = tone(key + riff[(beat * 4 + quarter) % 16], beat_s / 4, rate, limit=40)
            sound = fade(note, rate, 0.004, 0.08)
            place(mix, sound, (beat + quarter / 4) * beat_s, rate, gain=0.35)
    return mix


def rock(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """Distorted power chords over a back beat."""
    mix, key, beat_s = silence(seconds, rate), rng.integers(38, 44), 60 / rng.uniform(105, 150)
    riff = rng.choice([0, 0, 3, 5, 7, 10], 8)
    for beat in beats(seconds, beat_s):
        place(mix, snare(rate, rng) if beat % 2 else kick(rate), beat * beat_s, rate)
        for half in (0.0, 0.5):
            place(mix, hat(rate, rng), (beat + half) * beat_s, rate, gain=0.5, pan=0.3)
        for pan in (-0.8, 0.8):
            notes = [tone(key + riff[beat % 8] + n + pan / 20, beat_s, rate) for n in FIFTH]
            sound = fade(np.tanh(6 * np.sum(notes, axis=0)), rate, 0.003, 0.03)
            place(mix, sound, beat * beat_s, rate, gain=0.5, pan=pan)
    return mix


def pop(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """A loop of four chords, a light beat and a voice-like melody."""
    mix, key, beat_s = silence(seconds, rate), rng.integers(57, 64), 60 / rng.uniform(88, 118)
    for beat in beats(seconds, beat_s):
        at_s = beat * beat_s
        root, chord = POP_CHORDS[beat // 4 % 4]
        place(mix, snare(rate, rng) if beat % 2 else kick(rate), at_s, rate, gain=0.6)
        for step in chord:
            place(mix, struck(key + root % 12 + step - 12, beat_s, rate), at_s, rate, 0.4, -0.3)
        melody = sung(key + root % 12 + chord[rng.integers(3)], beat_s, rate, VOWELS_HZ[beat % 3])
        place(mix, melody, at_s, rate, gain=1.2)
    return mix


def walking(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """A plucked bass that walks under brushed cymbals and chords off the beat."""
    mix, key, beat_s = silence(seconds, rate), rng.integers(34, 40), 60 / rng.uniform(130, 165)
    for beat in beats(seconds, beat_s):
        place(
            mix, plucked(key + rng.choice([0, 2, 3, 5, 7, 9]), 0.6, rate, rng), beat * beat_s, rate
        )
        place(mix, hat(rate, rng), (beat + 0.66 * (beat % 2)) * beat_s, rate, gain=0.6, pan=0.4)
        if rng.random() < 0.4:
            for step in (0, 4, 10, 14):
                sound = struck(key + 24 + step, 0.4, rate)
                place(mix, sound, (beat + 0.66) * beat_s, rate, gain=0.4, pan=-0.4)
    return mix


def drone(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """One chord of soft tones that beat slowly against each other."""
    mix, key = silence(seconds, rate), rng.integers(33, 45)
    for voice, step in enumerate((0, 0.08, 7, 7.06, 12, 19)):
        slow = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.05, 0.2) * clock(seconds, rate))
        sound = slow * tone(key + step, seconds, rate, limit=8, tilt=1.8)
        place(mix, fade(sound, rate, seconds / 5, seconds / 5), 0, rate, pan=voice / 3 - 0.8)
    return mix


def ambience(seconds: float, rate: int, rng: np.random.Generator) -> Samples:
    """Wind and rain: bands of noise that come and go, different on either side."""
    mix = silence(seconds, rate)
    for low_hz, high_hz, gain in ((80, 500, 1.0), (500, 2500, 0.5), (3000, 9000, 0.3)):
        for pan in (-0.7, 0.7):
            swell = 1 + 0.8 * np.sin(2 * np.pi * rng.uniform(0.05, 0.3) * clock(seconds, rate))
            sound = swell * noise(seconds, rate, rng, low_hz, min(high_hz, 0.4 * rate))
            place(mix, sound, 0, rate, gain=gain, pan=pan)
    return mix


@dataclass(frozen=True)
class Recipe:
    """One track of the catalog."""

    path: str  # relative to the catalog; the suffix says the format
    kind: Kind
    sample_rate_hz: int
    channels: int  # 1 or 2


RECIPES = (
    Recipe("classical/strings/slow chords.wav", strings, 44_100, 2),
    Recipe("classical/strings/evening.flac", strings, 48_000, 2),
    Recipe("classical/piano/nocturne.flac", piano, 44_100, 2),
    Recipe("classical/piano/study.mp3", piano, 44_100, 1),
    Recipe("folk/arpeggio.ogg", arpeggio, 44_100, 2),
    Recipe("folk/field recording.wav", arpeggio, 22_050, 1),
    Recipe("electronic/four on the floor.wav", electronic, 44_100, 2),
    Recipe("electronic/warehouse.mp3", electronic, 48_000, 2),
    Recipe("electronic/late.ogg", electronic, 48_000, 2),
    Recipe("rock/power chords.flac", rock, 44_100, 2),
    Recipe("rock/garage.mp3", rock, 44_100, 2),
    Recipe("rock/demo tape.mp3", rock, 32_000, 1),
    Recipe("pop/chord loop.mp3", pop, 44_100, 2),
    Recipe("pop/summer.ogg", pop, 44_100, 2),
    Recipe("pop/voice memo.wav", pop, 16_000, 1),
    Recipe("jazz/walking.flac", walking, 96_000, 2),
    Recipe("jazz/déjà vu.ogg", walking, 44_100, 1),
    Recipe("ambient/drone.flac", drone, 44_100, 2),
    Recipe("ambient/low.mp3", drone, 24_000, 1),
    Recipe("ambient/wind and rain.wav", ambience, 48_000, 2),
)
DAMAGED, NOT_AUDIO = "broken/damaged.flac", "broken/liner notes.mp3"


def render(recipe: Recipe, seed: int, seconds: float) -> Samples:
    """Synthesise one track: (frames, channels) at the recipe's rate, peak at ``PEAK``."""
    rng = np.random.default_rng([seed, *recipe.path.encode()])
    mix = recipe.kind(seconds, recipe.sample_rate_hz, rng)
    return normalised(mix if recipe.channels == 2 else mix.mean(axis=1, keepdims=True))


def damaged_flac(seed: int) -> bytes:
    """A FLAC signature with rubbish behind it; no byte could begin an MP3 frame."""
    return b"fLaC" + np.random.default_rng(seed).integers(0, 128, 20_000, np.uint8).tobytes()


def write_sound(path: Path, samples: Samples, sample_rate_hz: int) -> None:
    """Write samples of shape (frames, channels) in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", sample_rate_hz, samples.shape[1]) as file:
        for start in range(0, len(samples), sample_rate_hz):  # one long write can exhaust the
            file.write(samples[start : start + sample_rate_hz])  # stack of the Vorbis encoder


def write_catalog(folder: Path, seed: int = 0, seconds: float = 12.0) -> list[Path]:
    """Write the sample catalog: all of it, or, when interrupted, nothing under that name.

    Parameters
    ----------
    folder : Path
        Where; must not exist, or be empty.
    seed : int
        The same seed gives the same WAV and FLAC files, bit for bit.
    seconds : float
        Duration of each track.

    Returns
    -------
    list of Path
        Every file of the catalog, the two broken ones last.

    Raises
    ------
    UsageError
        If there is something in ``folder``.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"{folder} exists already: remove it, or name another --output")
    partial = folder.parent / f".{folder.name}.{os.getpid()}.partial"
    try:
        for recipe in RECIPES:
            write_sound(partial / recipe.path, render(recipe, seed, seconds), recipe.sample_rate_hz)
        (partial / DAMAGED).parent.mkdir()
        (partial / DAMAGED).write_bytes(damaged_flac(seed))
        (partial / NOT_AUDIO).write_text("Side A: four songs. Side B: three more.\n")
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / path for path in (*(r.path for r in RECIPES), DAMAGED, NOT_AUDIO)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; the result is its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.sample",
        description="Synthesise a small catalog: 20 tracks of 9 kinds, 2 broken files.",
    )
    parser.add_argument("--output", required=True, type=Path, help="the folder to make")
    parser.add_argument("--seed", type=int, default=0, help="0 or more (default: 0)")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a track (default: 12)")
    args = parser.parse_args(argv)
    if args.seed < 0 or not 1 <= args.seconds <= 3600:
        parser.error("--seed must be 0 or more, --seconds between 1 and 3600")
    try:
        paths = write_catalog(args.output.absolute(), args.seed, args.seconds)
    except UsageError as error:
        parser.error(str(error))
    print(f"{args.output}: {len(paths)} files, two of them broken on purpose")
    return 0


if __name__ == "__main__":
    sys.exit(main())
