"""Two runs over one catalog, which many tests look at: each start takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.catalog import Catalog, Run, label, make_catalog
from tests.pipeline.shelf import Shelf, labelled_shelf, restored


@pytest.fixture(scope="session")
def catalog(tmp_path_factory) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="session")
def one_worker(catalog, tiny_checkpoint, tmp_path_factory) -> Run:
    """One worker, JSON Lines, embeddings and features."""
    return label(
        tmp_path_factory.mktemp("one") / "labels",
        f"--model={tiny_checkpoint}",
        "--workers=1",
        "--precision=float32",
        "--format=json",
        "--embeddings",
        "--features",
        "--progress=none",
        *catalog.inputs,
    )


@pytest.fixture(scope="session")
def two_workers(catalog, tiny_checkpoint, tmp_path_factory) -> Run:
    """Two workers, the inputs in another order, the same extras, and no failure allowed."""
    return label(
        tmp_path_factory.mktemp("two") / "labels",
        f"--model={tiny_checkpoint}",
        "--workers=2",
        "--precision=float32",
        "--embeddings",
        "--features",
        "--progress=none",
        "--max_failure_rate=0",
        *reversed(catalog.inputs),
    )


@pytest.fixture(scope="session")
def labelled_once(tmp_path_factory, tiny_checkpoint) -> Shelf:
    return labelled_shelf(tmp_path_factory.mktemp("shelf"), tiny_checkpoint)


@pytest.fixture
def shelf(labelled_once, tmp_path) -> Iterator[Shelf]:
    yield from restored(labelled_once, tmp_path / "kept")
