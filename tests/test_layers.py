"""The layers: pipeline/ above transforms/ above transforms/models/, imports only downward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    path.relative_to(ROOT)
    for layer in ("pipeline", "transforms")
    for path in (ROOT / layer).rglob("*.py")
)
MODELS = Path("transforms/models")
AUDIO = Path("transforms/audio")  # runs in the decoders' process
MAX_LINES = 400


def imported(source: str, module: Path) -> set[str]:
    """Dotted names that ``source`` imports anywhere; ``from a import b`` counts as ``a.b``."""
    package = module.parent.parts
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def below(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def violations(source: str, module: Path) -> set[str]:
    """The imports of ``source`` that the layers forbid."""
    names = imported(source, module)
    if module.parts[0] == "pipeline":
        return {name for name in names if below(name, "tests")}
    forbidden = {name for name in names if below(name, "pipeline", "tests")}
    if module.is_relative_to(AUDIO):
        forbidden |= {name for name in names if below(name, "apache_beam", "torch")}
        allowed = ("transforms.audio", "transforms.errors", "transforms.records")
        allowed += ("transforms.malloc", "transforms.models.front_end", "transforms.stopwatch")
        forbidden |= {
            name for name in names if below(name, "transforms") and not below(name, *allowed)
        }
    if module.is_relative_to(MODELS):
        forbidden |= {name for name in names if below(name, "apache_beam")}
        allowed = ("transforms.errors", "transforms.models")
        forbidden |= {
            name for name in names if below(name, "transforms") and not below(name, *allowed)
        }
    return forbidden


def test_there_is_something_to_check() -> None:
    assert {path.parts[0] for path in MODULES} == {"pipeline", "transforms"}
    assert any(path.is_relative_to(MODELS) for path in MODULES)


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_imports_go_downward_only(module: Path) -> None:
    assert violations((ROOT / module).read_text(encoding="utf-8"), module) == set()


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_stay_short(module: Path) -> None:
    lines = (ROOT / module).read_text(encoding="utf-8").count("\n")
    assert lines < MAX_LINES, f"{module} has {lines} lines: split it"


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("transforms/mel.py", "import pipeline.main", {"pipeline.main"}),
        ("transforms/mel.py", "from pipeline import main", {"pipeline.main"}),
        ("transforms/mel.py", "def f():\n    from ..pipeline import main", {"pipeline.main"}),
        ("transforms/mel.py", "import apache_beam as beam\nfrom transforms import windows", set()),
        ("transforms/models/vit.py", "import apache_beam.io", {"apache_beam.io"}),
        ("transforms/models/vit.py", "from transforms import mel", {"transforms.mel"}),
        ("transforms/models/vit.py", "from ..mel import log_mel", {"transforms.mel.log_mel"}),
        ("transforms/models/vit.py", "from .. import errors\nfrom . import front_end", set()),
        ("transforms/models/vit.py", "from transforms.errors import Reason", set()),
        ("transforms/models/vit.py", "from pipelines import x", set()),
        ("transforms/audio/sniff.py", "import torch.nn", {"torch.nn"}),
        ("transforms/audio/sniff.py", "from transforms import decode", {"transforms.decode"}),
        ("transforms/audio/sniff.py", "from transforms.audio import chunks", set()),
        ("pipeline/main.py", "from transforms.models import vit\nimport apache_beam", set()),
        ("pipeline/main.py", "from tests import audio_files", {"tests.audio_files"}),
    ],
)
def test_the_check_itself(module: str, source: str, found: set[str]) -> None:
    assert violations(source, Path(module)) == found
