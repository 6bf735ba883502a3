from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest

import transforms
from transforms.errors import (
    BooksError,
    CatalogError,
    CheckpointError,
    FrontEndError,
    InputError,
    Reason,
    RunError,
    StageError,
    StorageError,
    UsageError,
    WorkerError,
)

PACKAGE = Path(transforms.__file__).parent
MODEL_MODULES = sorted(
    f"transforms.models.{path.stem}" for path in (PACKAGE / "models").glob("[a-z]*.py")
)

SURFACE = {
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
}


def test_surface_is_pinned():
    """Change this list together with the CHANGELOG: users import these names."""
    assert set(transforms.__all__) == SURFACE
    assert list(transforms.__all__) == sorted(SURFACE)
    assert dir(transforms) == sorted(SURFACE)


@pytest.mark.parametrize("name", sorted(SURFACE))
def test_every_name_resolves_to_what_it_says(name):
    found = getattr(transforms, name)
    assert found.__name__ == name
    assert found.__module__.startswith("transforms.")
    assert found.__doc__
    if name != "ViTModelHandler":
        assert issubclass(found, beam.PTransform)


def test_from_import():
    from transforms import MelSpectrogram
    from transforms.mel import MelSpectrogram as Original

    assert MelSpectrogram is Original


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="Transcribe"):
        _ = transforms.Transcribe


def modules_loaded_by(statement: str) -> set[str]:
    """Run a statement in a new interpreter and give the modules that it has loaded then."""
    program = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


INSIDE_THE_BACKEND = {
    "transforms.models.linear",
    "transforms.models.sequence_network",
    "transforms.models.sequence_training",
    "transforms.models.vit_network",
}


def test_models_import_neither_beam_nor_a_framework():
    outside = sorted(set(MODEL_MODULES) - INSIDE_THE_BACKEND)
    assert "transforms.models.vit" in outside
    loaded = modules_loaded_by("import transforms, " + ", ".join(outside))
    assert loaded.issuperset(outside)
    assert loaded.isdisjoint({"apache_beam", "torch", "transformers", "pyarrow", "librosa"})


def test_the_inside_of_a_backend_imports_its_framework_alone():
    loaded = modules_loaded_by("import " + ", ".join(INSIDE_THE_BACKEND))
    assert loaded.issuperset(INSIDE_THE_BACKEND)
    assert loaded.isdisjoint({"apache_beam", "transformers", "pyarrow", "librosa"})


def test_the_probe_sees_what_is_loaded():
    assert "apache_beam" in modules_loaded_by("import transforms\ntransforms.RollUp")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_layers_import_only_downward(path):
    imported = imports_of(path)
    assert not {name for name in imported if name.split(".")[0] in ("pipeline", "tests")}
    if path.parent.name == "models":
        assert not {name for name in imported if name.startswith("apache_beam")}
        own = {name for name in imported if name.startswith("transforms")}
        above = {name for name in own if not name.startswith("transforms.models")}
        assert above <= {"transforms.errors"}


def test_tree_of_exceptions():
    assert CatalogError.__bases__ == (Exception,)
    assert {kind.__base__ for kind in (UsageError, StageError, RunError, BooksError)} == {
        CatalogError
    }
    assert {kind.__base__ for kind in (StorageError, WorkerError)} == {RunError}
    assert {kind.__base__ for kind in (InputError, FrontEndError, CheckpointError)} == {UsageError}


def test_reasons_are_pinned():
    """They are values of failures.reason, which users filter by."""
    assert {reason.value for reason in Reason} == {
        "not_found", "permission_denied", "unreadable", "empty_file", "not_audio",
        "unsupported_codec", "corrupt", "too_short", "timeout", "out_of_memory", "decoder_crash",
        "invalid_samples", "invalid_image",
        "invalid_scores", "unsupported_output", "incomplete", "internal_error",
        "malformed_block", "late_block", "format_changed", "flooded", "silence",
    }  # fmt: skip
