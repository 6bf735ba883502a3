"""Gradio imported in half the time: without the type stubs that it writes at every start.

As each of its components' classes is made, Gradio renders a stub for editors and writes it beside
the module, into the installation. That is half of the seconds that its import takes, and those are
what a start waits for. Nothing of the page needs them.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

_MODULE, _WRITER = "gradio.component_meta", "create_or_modify_pyi"


class _WithoutStubs(MetaPathFinder):
    """Finds the one module that writes them, and takes that function away once it is loaded.

    A Gradio that has no such module or function is imported as it is.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_without(module: ModuleType) -> None:
                load(module)
                if hasattr(module, _WRITER):
                    setattr(module, _WRITER, lambda *_: None)

            spec.loader.exec_module = load_without  # type: ignore[method-assign]
        return spec


def import_gradio() -> None:
    """Import Gradio, whose modules are then there for all."""
    if "gradio" in sys.modules:
        return
    finder = _WithoutStubs()
    sys.meta_path.insert(0, finder)
    try:
        import gradio  # noqa: F401
    finally:
        sys.meta_path.remove(finder)
