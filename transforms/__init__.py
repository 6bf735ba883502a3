"""The stages of the pipeline, each a PTransform that also works alone.

The names in ``__all__`` are the public surface. They are imported when first used, so that
importing ``transforms.models`` does not import Beam.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "ReadFiles": "read",
    "Decode": "decode",
    "Preprocess": "preprocess",
    "MelSpectrogram": "mel",
    "RunInference": "inference",
    "ViTModelHandler": "inference",
    "Journal": "journal",
    "RollUp": "rollup",
    "CloseBooks": "books",
    "Enhance": "enhance",
    "WriteToParquet": "write",
}

__all__ = [
    "CloseBooks",
    "Decode",
    "Enhance",
    "Journal",
    "MelSpectrogram",
    "Preprocess",
    "ReadFiles",
    "RollUp",
    "RunInference",
    "ViTModelHandler",
    "WriteToParquet",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
