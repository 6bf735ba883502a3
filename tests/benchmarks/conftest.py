"""A tiny model of the recipe, tracks, and what the model says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.benchmarks.recipe_by_hand import scores_by_hand
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A tiny ViT of the recipe's image size."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return make_checkpoint(folder, image_size=224, patch_size=32, separated=True)


@pytest.fixture(scope="session")
def tracks(tmp_path_factory) -> list[Path]:
    """Three channel counts and rates, one of them the recipe's own."""
    folder = tmp_path_factory.mktemp("tracks")
    return [
        write_soundfile(folder / "a.wav", sine(3.0), 44_100, "WAV"),
        write_soundfile(folder / "b.flac", noise(2.5, 32_000, 1, seed=1), 32_000, "FLAC"),
        write_soundfile(folder / "c.wav", noise(2.0, 22_050, 2, seed=2), 22_050, "WAV"),
    ]


@pytest.fixture(scope="session")
def expected(model: Path, tracks: list[Path]) -> dict[str, Any]:
    """Scores of each track in float64."""
    return scores_by_hand(model, tracks)
