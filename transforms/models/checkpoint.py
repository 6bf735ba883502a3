"""A checkpoint folder: what it states, checked before any weight is loaded.

CHECKPOINT/config.json                transformers' configuration: labels, image size, and
our key ``unknown_threshold``; of a sequence model its settings (transforms.models.sequence)
CHECKPOINT/model.safetensors          the weights; a pickle is never opened
CHECKPOINT/preprocessor_config.json   the front end (transforms.models.front_end)
CHECKPOINT/README.md                  the model card
"""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transforms.errors import CheckpointError, FrontEndError, WorkerError
from transforms.models.front_end import FRONT_END_FILE, FrontEnd, choose_front_end

VIT, SEQUENCE = "vit", "catalog_sequence"  # what config.json's model_type may be
MODEL_TYPES = (VIT, SEQUENCE)
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
THRESHOLD_KEY = "unknown_threshold"
SHIPPED = Path(__file__).parent / "checkpoints"
DEFAULT_MODEL = "genre-vit"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint states about itself."""

    folder: Path  # absolute
    model_type: str  # VIT, or SEQUENCE: a recogniser
    labels: tuple[str, ...]  # in the order of the logits
    front_end: FrontEnd
    unknown_threshold: float  # best scores under this are labelled "unknown"; 0 turns it off
    embedding_size: int
    fingerprint: str  # 16 hexadecimal digits over configuration and weights

    @property
    def name(self) -> str:
        """What finds it on other machines."""
        return name_of(self.folder)


def name_of(folder: Path) -> str:
    """What finds a checkpoint on other machines: its path, or a shipped model's name.

    The package need not be installed at the same path there.
    """
    return folder.name if folder.parent == SHIPPED else str(folder)


def shipped_models(*, enhancing: bool = False) -> list[str]:
    """Names of the checkpoints inside the package: those that label, or those that enhance."""
    heads = {
        path.parent.name: json.loads(path.read_text()).get("head")
        for path in SHIPPED.glob(f"*/{CONFIG_FILE}")
    }
    return sorted(name for name, head in heads.items() if (head == "enhancement") == enhancing)


def head_of(name: str) -> str | None:
    """``recognition`` or ``enhancement`` for a sequence model, None for a ViT.

    Raises
    ------
    CheckpointError
        If there is no such checkpoint.
    """
    head = read_config(find_checkpoint(name)).get("head")
    return None if head is None else str(head)


def find_checkpoint(name: str, *, enhancing: bool = False, option: str = "--model") -> Path:
    """The folder of a shipped model's name or of a path.

    Parameters
    ----------
    name : str
    enhancing : bool
        Which shipped models to name where there is none: those that enhance, or that label.
    option : str
        By which it was asked for, for the message.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    for folder in (Path(name), SHIPPED / name):
        if (folder / CONFIG_FILE).is_file():
            return folder.absolute()
    raise CheckpointError(
        f"{option}={name}: no {CONFIG_FILE} there; give a transformers checkpoint folder or one "
        f"of the shipped models: {', '.join(shipped_models(enhancing=enhancing)) or 'none'}"
    )


def find_same(name: str, fingerprint: str) -> Path:
    """The folder of a checkpoint that was looked up elsewhere, on this machine.

    Raises
    ------
    WorkerError
        If there is none, or another one.
    """
    remedy = "all machines of a cluster need the same model at the same path"
    try:
        folder = find_checkpoint(name)
        found = fingerprint_of(folder)
    except (CheckpointError, OSError) as error:
        raise WorkerError(f"on {socket.gethostname()}: {error}; {remedy}") from error
    if found != fingerprint:
        raise WorkerError(
            f"on {socket.gethostname()}: --model={name} is {found} there and {fingerprint} where "
            f"the run was started; {remedy}"
        )
    return folder


def load_checkpoint(
    name: str,
    *,
    front_end_preset: str | None = None,
    front_end_changes: dict[str, Any] | None = None,
    option: str = "--model",
) -> Checkpoint:
    """Read and check a checkpoint that labels, without loading its weights.

    Parameters
    ----------
    name : str
        A shipped model's name, or a folder with config.json and model.safetensors.
    front_end_preset : str, optional
        One of ``PRESETS``, for a checkpoint that brings no front end.
    front_end_changes : dict, optional
        Fields of the front end to replace (which windows, denoising, ...).
    option : str
        By which it was asked for, for the message where there is none.

    Raises
    ------
    CheckpointError, FrontEndError
        With the folder, both values where two disagree, and the remedy.
    """
    from transforms.models.recogniser import check_recogniser, recogniser_front_end

    folder = find_checkpoint(name, option=option)
    config = read_config(folder)
    is_vit = config["model_type"] == VIT
    check = _check_vit if is_vit else check_recogniser
    check(folder, config)
    front_end = choose_front_end(folder, front_end_preset)
    changes = front_end_changes or {}
    _check_denoise(folder, front_end, changes)
    if is_vit:
        front_end = front_end.changed(**changes)
        check_image_size(folder, config, front_end)
    else:
        front_end = recogniser_front_end(folder, config, front_end, changes)
    labels = _labels(folder, config)
    _check_logits(folder, labels, "classifier.weight" if is_vit else "head.classifier.weight")
    return Checkpoint(
        folder=folder,
        model_type=config["model_type"],
        labels=labels,
        front_end=front_end,
        unknown_threshold=read_threshold(folder, config),
        embedding_size=int(config["hidden_size"]),
        fingerprint=fingerprint_of(folder),
    )


def read_config(folder: Path, model_types: tuple[str, ...] = MODEL_TYPES) -> dict[str, Any]:
    """What a checkpoint's config.json states.

    Raises
    ------
    CheckpointError
        If it is of another kind, or has no weights that may be loaded.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(config, dict) or config.get("model_type") not in model_types:
        kind = config.get("model_type") if isinstance(config, dict) else None
        known = " or ".join(map(repr, model_types))
        raise CheckpointError(f"{path}: model_type is {kind!r}; this program loads {known}")
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(
            f"{folder}: no {WEIGHTS_FILE}; pickled weights are never loaded here, convert them "
            "with python -m pipeline.convert"
        )
    return config


def _check_vit(folder: Path, config: dict[str, Any]) -> None:
    path = folder / CONFIG_FILE
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(
            f"{path}: problem_type is {config['problem_type']!r}; labels here exclude each other"
        )
    if missing := sorted({"hidden_size", "image_size", "id2label"} - config.keys()):
        raise CheckpointError(f"{path}: missing {', '.join(missing)}")


def _check_denoise(folder: Path, front_end: FrontEnd, changes: dict[str, Any]) -> None:
    """Raise FrontEndError unless the enhancer that a front end states is the one that is given."""
    given = changes.get("denoise")
    if front_end.needs_enhancer and given != front_end.denoise:
        raise FrontEndError(
            f"{folder}: its front end denoises with the enhancer {front_end.denoise[6:]}; give its "
            f"checkpoint as --denoise" + (f", not {given}" if given else "")
        )


def _labels(folder: Path, config: dict[str, Any]) -> tuple[str, ...]:
    try:
        by_index = {int(index): str(label) for index, label in config["id2label"].items()}
    except (AttributeError, ValueError):
        by_index = {}
    if sorted(by_index) != list(range(len(by_index))) or not by_index:
        raise CheckpointError(f"{folder}: id2label must number its labels from 0 without a gap")
    labels = tuple(by_index[index] for index in range(len(by_index)))
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise CheckpointError(f"{folder}: id2label names more than one logit {', '.join(twice)}")
    return labels


def _check_logits(folder: Path, labels: tuple[str, ...], tensor: str) -> None:
    """Compare the labels with the classifier's shape, from the header of the weights alone."""
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="numpy") as weights:
            logits = weights.get_slice(tensor).get_shape()[0]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not the weights of a classifier: {error}") from error
    if logits != len(labels):
        raise CheckpointError(
            f"{folder}: id2label names {len(labels)} labels, the weights have {logits} logits"
        )


def read_threshold(folder: Path, config: dict[str, Any]) -> float:
    """The threshold that a configuration states, in [0, 1).

    Raises
    ------
    CheckpointError
        If it is out of range.
    """
    threshold = config.get(THRESHOLD_KEY, 0.0)
    if not isinstance(threshold, (int, float)) or not 0.0 <= threshold < 1.0:
        raise CheckpointError(f"{folder}: {THRESHOLD_KEY} must be in [0, 1), not {threshold!r}")
    return float(threshold)


def image_size(config: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of a ViT configuration, whose ``image_size`` is a number or a pair."""
    size = config["image_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return int(height), int(width)


def check_image_size(folder: Path, config: dict[str, Any], front_end: FrontEnd) -> None:
    """Raise CheckpointError unless the front end makes the images that the model takes."""
    wants, gets = image_size(config), (front_end.image_height, front_end.image_width)
    if wants != gets:
        raise CheckpointError(
            f"{folder}: the model takes images of {wants}, its front end makes {gets}; "
            "one of the two files belongs to another model"
        )


def fingerprint_of(folder: Path) -> str:
    """16 hexadecimal digits over a checkpoint's configuration and weights.

    An enhancer's are over its front end too. That of a model that labels has a fingerprint of its
    own, which is recorded beside this one.

    Raises
    ------
    CheckpointError
        If one of them is missing.
    """
    config = read_config(folder)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    if config.get("head") == "enhancement":
        digest.update(_canonical(folder / FRONT_END_FILE))
    with (folder / WEIGHTS_FILE).open("rb") as weights:
        while chunk := weights.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:16]


def _canonical(path: Path) -> bytes:
    """A JSON file's content, however it is set out."""
    try:
        return json.dumps(json.loads(path.read_text()), sort_keys=True).encode()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
