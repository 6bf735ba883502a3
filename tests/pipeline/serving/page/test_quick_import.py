"""Gradio without its stubs: the same components, and nothing written."""

from __future__ import annotations

import subprocess
import sys

from tests.catalog import ROOT

_PROGRAM = """
import pathlib
written = []
write_text = pathlib.Path.write_text
pathlib.Path.write_text = lambda path, *a, **k: written.append(path) or write_text(path, *a, **k)
render_count = 0
import jinja2
render = jinja2.Template.render
def counted(self, *a, **k):
    global render_count
    render_count += "contents" in k
    return render(self, *a, **k)
jinja2.Template.render = counted
{how}
import gradio
print(render_count, [p for p in written if p.suffix == ".pyi"], hasattr(gradio.Audio, "stream"))
"""


def stubs(how: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM.format(how=how)],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout.split(maxsplit=1)


def test_no_stub_is_made_and_every_event_is_there() -> None:
    count, rest = stubs(
        "from pipeline.serving.page.quick_import import import_gradio; import_gradio()"
    )
    assert int(count) == 0
    assert rest.strip() == "[] True"
    assert int(stubs("")[0]) > 20  # else Gradio makes none any more, and this can go
