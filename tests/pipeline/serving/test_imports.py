"""The server's own process starts fast: it has neither torch nor Beam."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "module",
    "answers problems guards rates uploads uris cache shelf memory admission".split(),
)
def test_imports_neither_torch_nor_beam(module):
    code = (
        f"import sys, pipeline.serving.{module}\n"
        "print(sorted({'torch', 'apache_beam', 'transformers', 'gradio'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
