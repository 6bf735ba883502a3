"""Two runs over one catalog, which many tests look at: each start takes seconds."""

from __future__ import annotations

import pytest

from tests.catalog import Catalog, Run, label, make_catalog


@pytest.fixture(scope="session")
def catalog(tmp_path_factory) -> Catalog:
    return make_catalog(tmp_path_factory.mktemp("catalog"))


@pytest.fixture(scope="session")
def one_worker(catalog, tiny_checkpoint, tmp_path_factory) -> Run:
    """One worker, JSON Lines and embeddings."""
    return label(
        tmp_path_factory.mktemp("one") / "labels",
        f"--model={tiny_checkpoint}",
        "--workers=1",
        "--precision=float32",
        "--format=json",
        "--embeddings",
        "--progress=none",
        *catalog.inputs,
    )


@pytest.fixture(scope="session")
def two_workers(catalog, tiny_checkpoint, tmp_path_factory) -> Run:
    """Two workers, the inputs in another order, and no failure allowed."""
    return label(
        tmp_path_factory.mktemp("two") / "labels",
        f"--model={tiny_checkpoint}",
        "--workers=2",
        "--precision=float32",
        "--embeddings",
        "--progress=none",
        "--max_failure_rate=0",
        *reversed(catalog.inputs),
    )
