"""A server for the catalog of tests/pipeline/conftest.py, which several modules ask."""

from __future__ import annotations

import pytest

from tests.pipeline.serving.served import serving


@pytest.fixture(scope="package")
def api_server(catalog, tiny_checkpoint, tmp_path_factory):
    """Started as ``one_worker`` of tests/pipeline/conftest.py was."""
    with serving(
        tmp_path_factory.mktemp("served"),
        f"--model={tiny_checkpoint}",
        "--precision=float32",
        "--embeddings",
        "--features",
        "--max_upload_mib=4",
        "--max_files=30",
        f"--root={catalog.folder}",
    ) as served:
        yield served
        assert served.stop() == 0
        served.wait_until_alone()
        assert not any(served.temporary.iterdir())
        assert "Traceback" not in "\n".join(served.stderr)


@pytest.fixture(scope="package")
def files(catalog) -> dict[str, bytes]:
    paths = (path for path in catalog.folder.rglob("*") if path.suffix != ".jpg")
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


@pytest.fixture(scope="package")
def sound(files) -> bytes:
    return files["pcm16.wav"]
