"""Fixtures that tests of several packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make_checkpoint, tiny_front_end


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT of 64 x 64 images and four labels with its front end. Copy it to change it."""
    return make_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "tiny",
        front_end=tiny_front_end(),
        unknown_threshold=0.3,
    )


@pytest.fixture(scope="session")
def separated_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, with logits so far apart that rounding cannot swap two labels."""
    return make_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "separated",
        front_end=tiny_front_end(),
        separated=True,
    )
