"""The front end: everything between bytes and the model's image, as one frozen value.

A checkpoint and its front end belong together: a wrong sample rate or mel range gives
plausible wrong labels. So the front end is saved beside the weights as
``preprocessor_config.json``, is read from there, and is never guessed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from transforms.errors import FrontEndError

FRONT_END_FILE = "preprocessor_config.json"
TYPE_KEY, TYPE = "feature_extractor_type", "LogMelFrontEnd"

MAX_IMAGE_SECONDS = 1_800.0  # of one window, which is held in memory

ChannelRule = Literal["mean", "first"]
DENOISE_METHODS = ("none", "spectral_gate")
Reference = Literal["peak", "full_scale"]
Resampler = Literal["HQ", "VHQ"]

_ENHANCER = re.compile(r"model:[0-9a-f]{16}")
_ADDED_LATER = ("reference", "resampler")
"""Left out of a fingerprint where they have their default: rows of earlier runs stay known."""


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """Settings from decoded samples to the image; units are in the names.

    Raises
    ------
    FrontEndError
        If a value is out of range; the message names it.
    """

    sample_rate_hz: int  # rate that everything is resampled to
    n_fft: int  # samples per FFT, Hann window, centred frames
    hop_length: int  # samples between FFT frames
    n_mels: int  # mel bands, Slaney scale and normalisation (librosa's default)
    fmin_hz: float
    fmax_hz: float
    top_db: float  # floor under the reference, decibels
    image_height: int  # n_mels is resized to this
    image_width: int  # the window's frames are resized to this
    window_seconds: float  # length of one image; ignored by windows="whole"
    hop_seconds: float  # between window starts; used by windows="all"
    windows: str = "all"  # all | middle | whole | a count spread evenly, as "3"
    channel_rule: ChannelRule = "mean"
    remove_dc: bool = True  # subtract the window's mean
    denoise: str = "none"  # none | spectral_gate | model: and the fingerprint of an enhancer
    trim_silence_db: float | None = None  # cut edges quieter than this under the peak
    normalize_peak: bool = False  # scale the window's peak to 1.0
    max_seconds: float = 86_400.0  # of a track at most; decoding stops there
    reference: Reference = "peak"  # of the decibels: the window's peak, or a power of 1
    resampler: Resampler = "HQ"  # soxr's quality; VHQ computes in float64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field, getattr(self, field.name)))
        for name in ("sample_rate_hz", "n_fft", "hop_length", "n_mels", "top_db",
                     "image_height", "image_width", "window_seconds", "hop_seconds",
                     "max_seconds"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise FrontEndError(f"front end: {name} must be positive, not {value}")
        for name in ("window_seconds", "hop_seconds"):
            if not 1 / self.sample_rate_hz <= getattr(self, name) <= MAX_IMAGE_SECONDS:
                raise FrontEndError(
                    f"front end: {name} must be from one sample to {MAX_IMAGE_SECONDS:g} s"
                )
        if not 0 <= self.fmin_hz < self.fmax_hz <= self.sample_rate_hz / 2:
            raise FrontEndError(
                f"front end: need 0 <= fmin_hz < fmax_hz <= sample_rate_hz / 2, not "
                f"{self.fmin_hz}, {self.fmax_hz}, {self.sample_rate_hz / 2}"
            )
        if self.windows not in ("all", "middle", "whole") and not (
            self.windows.isdecimal() and int(self.windows) > 0
        ):
            raise FrontEndError(
                f"front end: windows must be all, middle, whole or a count, not {self.windows!r}"
            )
        if self.channel_rule not in get_args(ChannelRule):
            raise FrontEndError(f"front end: unknown channel_rule {self.channel_rule!r}")
        if self.denoise not in DENOISE_METHODS and not self.needs_enhancer:
            raise FrontEndError(f"front end: unknown denoise {self.denoise!r}")
        if self.reference not in get_args(Reference):
            raise FrontEndError(f"front end: unknown reference {self.reference!r}")
        if self.resampler not in get_args(Resampler):
            raise FrontEndError(f"front end: unknown resampler {self.resampler!r}")
        if self.trim_silence_db is not None and not self.trim_silence_db > 0:
            raise FrontEndError("front end: trim_silence_db must be positive or null")

    @property
    def window_samples(self) -> int:
        """Samples of one full window at ``sample_rate_hz``."""
        return round(self.window_seconds * self.sample_rate_hz)

    @property
    def decoded_seconds(self) -> float:
        """Where decoding stops: ``max_seconds``, or sooner where one image holds the track."""
        if self.windows == "whole":
            return min(self.max_seconds, MAX_IMAGE_SECONDS)
        return self.max_seconds

    @property
    def needs_enhancer(self) -> bool:
        """Whether ``denoise`` names an enhancer, which is a checkpoint of its own."""
        return _ENHANCER.fullmatch(self.denoise) is not None

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with every setting that can change a label."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        stated = {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in _ADDED_LATER or value != defaults[name]
        }
        canonical = json.dumps(stated, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def changed(self, **changes: Any) -> FrontEnd:
        """A copy with some settings replaced; None leaves a setting as it is.

        Raises
        ------
        FrontEndError
            If a value is out of range.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **given)

    def save(self, folder: Path) -> None:
        """Write ``preprocessor_config.json`` into ``folder``."""
        content = {TYPE_KEY: TYPE, **dataclasses.asdict(self)}
        (folder / FRONT_END_FILE).write_text(json.dumps(content, indent=2) + "\n")


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """``value`` if it has the field's type; a whole number may stand for a float, as in JSON."""
    expected = str(field.type)
    if "float" in expected and type(value) is int:
        value = float(value)
    kinds = {"int": (int,), "float": (float,), "float | None": (float, type(None)), "bool": (bool,)}
    if type(value) not in kinds.get(expected, (str,)):  # type(): True is no sample rate
        raise FrontEndError(f"front end: {field.name} must be {expected}, not {value!r}")
    return value


def load_front_end(folder: Path) -> FrontEnd | None:
    """The front end saved in a checkpoint folder, or None where there is no such file.

    Raises
    ------
    FrontEndError
        If the file is there but states no complete log-mel front end, for instance an image
        processor's settings.
    """
    path = folder / FRONT_END_FILE
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise FrontEndError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict) or content.pop(TYPE_KEY, None) != TYPE:
        raise FrontEndError(
            f"{path} states no log-mel front end ({TYPE_KEY} is not {TYPE}); "
            f"state one with --front_end={'|'.join(PRESETS)}"
        )
    fields = {f.name: f for f in dataclasses.fields(FrontEnd)}
    if unknown := sorted(content.keys() - fields.keys()):
        raise FrontEndError(f"{path}: unknown settings {', '.join(unknown)}")
    required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
    if missing := sorted(required - content.keys()):
        raise FrontEndError(f"{path}: missing settings {', '.join(missing)}")
    return FrontEnd(**content)


PRESETS: dict[str, FrontEnd] = {
    # The published 16-genre recipe (CCMusic music_genre): the whole track, as librosa loads it,
    # squeezed into one 224 x 224 image.
    "ccmusic": FrontEnd(
        sample_rate_hz=22_050,
        n_fft=2_048,
        hop_length=512,
        n_mels=128,
        fmin_hz=0.0,
        fmax_hz=8_000.0,
        top_db=80.0,
        image_height=224,
        image_width=224,
        window_seconds=30.0,
        hop_seconds=30.0,
        windows="all",
        remove_dc=False,
    ),
    # Ten seconds as 32 short-time spectra of 0.3 s: what the shipped genre model sees.
    "spectra": FrontEnd(
        sample_rate_hz=22_050,
        n_fft=2_048,
        hop_length=512,
        n_mels=128,
        fmin_hz=0.0,
        fmax_hz=11_025.0,
        top_db=80.0,
        image_height=128,
        image_width=32,
        window_seconds=10.0,
        hop_seconds=5.0,
    ),
    # Frames for causal models: nothing refers to what comes later, nothing is resized.
    "music_frames": FrontEnd(
        sample_rate_hz=22_050,
        n_fft=2_048,
        hop_length=1_024,
        n_mels=64,
        fmin_hz=30.0,
        fmax_hz=11_025.0,
        top_db=80.0,
        image_height=64,
        image_width=216,
        window_seconds=10.0,
        hop_seconds=5.0,
        remove_dc=False,
        reference="full_scale",
        resampler="VHQ",
    ),
    "speech_frames": FrontEnd(
        sample_rate_hz=8_000,
        n_fft=256,
        hop_length=200,
        n_mels=32,
        fmin_hz=60.0,
        fmax_hz=4_000.0,
        top_db=80.0,
        image_height=32,
        image_width=81,
        window_seconds=2.0,
        hop_seconds=2.0,
        remove_dc=False,
        reference="full_scale",
        resampler="VHQ",
    ),
}

CCMUSIC_LABELS = (
    "blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop",
    "reggae", "rock", "electronic", "folk", "latin", "rnb", "rap", "world",
)  # fmt: skip
"""The 16 genres of the published recipe, in the order of its logits."""


def choose_front_end(folder: Path, preset: str | None) -> FrontEnd:
    """The front end that a checkpoint brings, or the preset for one that brings none.

    Raises
    ------
    FrontEndError
        If there is neither, or the two contradict each other.
    """
    own = None if preset and not _states_front_end(folder) else load_front_end(folder)
    if preset is not None and preset not in PRESETS:
        raise FrontEndError(f"--front_end={preset}: unknown; one of {', '.join(PRESETS)}")
    if own is None and preset is None:
        raise FrontEndError(
            f"{folder} states no front end (no preprocessor_config.json), and a wrong one gives "
            f"plausible wrong labels; state it with --front_end={'|'.join(PRESETS)}"
        )
    if own is not None and preset is not None and own != PRESETS[preset]:
        raise FrontEndError(
            f"{folder} brings its own front end; leave --front_end={preset} away"
        )
    return own or PRESETS[str(preset)]


def _states_front_end(folder: Path) -> bool:
    """Whether there is a front end of ours, even a damaged one, or an image processor's."""
    path = folder / FRONT_END_FILE
    try:
        content = json.loads(path.read_text())
    except ValueError:
        return True  # nobody knows whose it was
    except FileNotFoundError:
        return False
    return isinstance(content, dict) and content.get(TYPE_KEY) == TYPE
