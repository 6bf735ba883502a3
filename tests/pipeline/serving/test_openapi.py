"""The API is as /openapi.json describes it: schemathesis looks for what contradicts it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.audio_files import noise, write_soundfile
from tests.pipeline.serving.served import Served, serving

schemathesis = pytest.importorskip("schemathesis")
pytestmark = pytest.mark.slow

KEY = "s3cret"
# No schema can say which bytes are sound and which files there are, so a body that is as described
# may still be refused; for all other operations the check stays on.
CONFIG = """\
[[operations]]
include-path-regex = "^/v1/labels"
checks.positive_data_acceptance.enabled = false
"""


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openapi")
    (folder / "key").write_text(KEY)
    (folder / "music").mkdir()
    with serving(
        folder,
        f"--model={tiny_checkpoint}",
        f"--root={folder}/music",
        f"--api_key_file={folder}/key",
        "--features",
        "--embeddings",
    ) as served:
        yield served
        assert served.stop() == 0
        assert "Traceback" not in "\n".join(served.stderr)
        assert not any(served.temporary.iterdir())


def run(served: Served, folder: Path, *options: str) -> tuple[int, str]:
    (folder / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--no-color",
         f"--config-file={folder}/schemathesis.toml", "run", f"{served.url}/openapi.json",
          "--phases=examples,coverage,fuzzing", "--max-examples=50",
         "--continue-on-failure", "--generation-deterministic", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_nothing_contradicts_the_description(server, tmp_path):
    status, said = run(server, tmp_path, f"--header=Authorization: Bearer {KEY}")
    assert status == 0, said
    assert "Tested: 6" in said
    generated = re.search(r"(\d+) generated", said)
    assert generated is not None and int(generated[1]) > 100, said


def test_results_are_as_described(server, tmp_path):
    """schemathesis sends no sound: these are the answers that it does not see."""
    sound = noise(5.0, 22_050, 2)
    content = write_soundfile(tmp_path / "a.wav", sound, 22_050, "WAV", "PCM_16").read_bytes()
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers={"x-api-key": KEY})
    with server.client(headers={"x-api-key": KEY}) as client:
        files = [("file", ("a.wav", content)), ("file", ("b.wav", b"no sound" * 100))]
        answers = {
            ("/v1/labels", "POST"): client.post("/v1/labels", files=files[:1]),
            ("/v1/labels:batch", "POST"): client.post("/v1/labels:batch", files=files),
            ("/v1/models", "GET"): client.get("/v1/models"),
            ("/health/live", "GET"): client.get("/health/live"),
            ("/health/ready", "GET"): client.get("/health/ready"),
            ("/metrics", "GET"): client.get("/metrics"),
        }
    paths = schema.raw_schema["paths"]
    assert {(p, m.upper()) for p, methods in paths.items() for m in methods} == set(answers)
    for (path, method), answer in answers.items():
        assert answer.status_code == 200, answer.text[:500]
        answer.request.read()
        schema[path][method].validate_response(answer)


def test_the_key_is_described_where_it_is_asked_for(server):
    with server.client(headers={"x-api-key": KEY}) as client:
        description = client.get("/openapi.json").json()
    asked = {
        path: "security" in next(iter(of.values())) for path, of in description["paths"].items()
    }
    assert asked == {path: not path.startswith("/health/") for path in asked}
    assert len(description["components"]["securitySchemes"]) == 2
