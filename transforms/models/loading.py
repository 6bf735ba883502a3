"""Loads a model by its kind."""

from __future__ import annotations

from typing import Any

from transforms.models.checkpoint import VIT
from transforms.models.interface import Model
from transforms.models.recogniser import load_recogniser
from transforms.models.vit import load_vit


def load_model(kind: str, **settings: Any) -> Model:
    """Load a model, once in a process and those that are forked from it.

    Parameters
    ----------
    kind : str
        A checkpoint's ``model_type``.
    **settings
        The arguments of :func:`transforms.models.vit.load_vit` or
        :func:`transforms.models.recogniser.load_recogniser`.

    Raises
    ------
    WorkerError
        If that checkpoint is not on this machine.
    CheckpointError
        If its weights cannot be loaded.
    """
    return load_vit(**settings) if kind == VIT else load_recogniser(**settings)
