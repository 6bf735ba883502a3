"""``python -m pipeline.serve`` in a process of its own, and what its clients do."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.catalog import ROOT, environment
from tests.pipeline.processes import MARK, family_of, wait_until

PROBLEM = "application/problem+json"
KIND = "multipart/form-data; boundary=edge"
PATIENCE_S = 60.0


def command_line(*options: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.serve", "--port=0", "--no-page", *options]


def refused(*options: str, **variables: str) -> tuple[int, list[str]]:
    """Exit status and lines of a server that is not expected to start."""
    done = subprocess.run(
        command_line(*options),
        cwd=ROOT,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


class Served:
    """A server of the API alone, with everything that it starts marked.

    ``folder`` gets its temporary files, its cache and what it says.
    """

    def __init__(self, folder: Path, *options: str, **variables: str) -> None:
        self._mark = uuid.uuid4().hex
        self.temporary, self.cache = folder / "tmp", folder / "cache"
        self.temporary.mkdir(parents=True, exist_ok=True)
        self._errors = folder / "stderr"
        told = {"TMPDIR": str(self.temporary), MARK: self._mark, **variables}
        with self._errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command_line(f"--cache={self.cache}", *options),
                cwd=ROOT,
                env=environment(**told),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stderr(self) -> list[str]:
        return self._errors.read_text(encoding="utf-8").splitlines()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return self._said("listening at ").partition(",")[0]

    def wait_until_ready(self) -> Served:
        self._said("ready after ")
        return self

    def _said(self, beginning: str) -> str:
        def find() -> str | None:
            if self._process.poll() is not None:
                raise RuntimeError("\n".join(["the server has ended:", *self.stderr]))
            found = [line for line in self.stderr if line.startswith(beginning)]
            return found[0].removeprefix(beginning) if found else None

        return str(wait_until(find, beginning, PATIENCE_S))

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False, **options)

    def get(self, path: str) -> httpx.Response:
        with self.client() as client:
            return client.get(path)

    def label(self, content: bytes, name: str = "a.wav", **headers: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/labels", files={"file": (name, content)}, headers=headers)

    def label_all(self, files: Sequence[tuple[str, bytes]]) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/labels:batch", files=[("file", file) for file in files])

    def label_uri(self, uri: str) -> httpx.Response:
        with self.client() as client:
            return client.post("/v1/labels", json={"uri": uri})

    def metric(self, name: str, **labels: str) -> float:
        """Of all samples with that name and those labels, the sum."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"catalog_labels_{name}" and labels.items() <= sample.labels.items()
        )

    def uploads(self) -> list[Path]:
        """Temporary files and folders of requests."""
        return list(self.temporary.glob("catalog-labels-*/*"))

    def family(self) -> dict[int, str]:
        """Process ids and command lines of all that it started, and its own."""
        return family_of(self._mark)

    def decoders(self) -> list[int]:
        return [pid for pid, line in self.family().items() if "decoder_process" in line]

    def fork_server(self) -> int:
        """Its process id; 0 if there is none."""
        return next((pid for pid in self._python() if parent_of(pid) == self.pid), 0)

    def workers(self) -> list[int]:
        """Of sound and of the model, the oldest first."""
        server = self.fork_server()
        return sorted(pid for pid in self._python() if parent_of(pid) == server)

    def _python(self) -> dict[int, str]:
        return {pid: line for pid, line in self.family().items() if "forkserver" in line}

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(PATIENCE_S)

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self.signal()
        return self.wait()

    def wait_until_alone(self) -> None:
        """Until nothing runs any more that it started."""
        wait_until(lambda: not self.family(), "the end of its processes", PATIENCE_S)

    def close(self) -> None:
        """End what is left of it, also if a test has failed."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def parent_of(pid: int) -> int:
    """The process id of a process's parent; 0 if there is none such."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))


@contextlib.contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Served]:
    """A server that is ready."""
    served = Served(folder, *options, **variables)
    try:
        yield served.wait_until_ready()
    finally:
        served.close()


def form(content: bytes, name: str = "a.wav", field: str = "file") -> bytes:
    head = f'--edge\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n"


class Halfway:
    """An upload of which only the first half has been sent."""

    def __init__(self, served: Served, content: bytes, path: str = "/v1/labels") -> None:
        body = form(content)
        self._rest = body[len(body) // 2 :]
        address = httpx.URL(served.url)
        self._connection = http.client.HTTPConnection(address.host, address.port or 80, PATIENCE_S)
        self._connection.putrequest("POST", path)
        self._connection.putheader("Content-Type", KIND)
        self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body[: len(body) // 2])
        wait_until(lambda: served.metric("queue_depth") > 0, "the request's acceptance", PATIENCE_S)

    def finish(self) -> httpx.Response:
        """Send the rest; the answer."""
        self._connection.send(self._rest)
        return self.answer()

    def answer(self) -> httpx.Response:
        with contextlib.closing(self._connection):
            found = self._connection.getresponse()
            headers = found.getheaders()
            return httpx.Response(found.status, headers=headers, content=found.read())

    def leave(self) -> None:
        self._connection.close()


def check_problem(answer: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    """Everything that holds for every error; its body."""
    told = answer.status_code, answer.headers["content-type"]
    assert told == (status, PROBLEM), answer.text[:500]
    body: dict[str, Any] = answer.json()
    assert set(body) <= {"type", "title", "status", "detail", "reason"}
    assert (body["status"], body["reason"]) == (status, reason)
    assert body["type"] == f"urn:catalog-labels:problem:{reason}"
    assert body["title"].strip() and body["detail"].strip()
    assert "Traceback" not in answer.text
    assert answer.headers["x-reason"] == reason
    return body


def eventually_empty(served: Served) -> None:
    wait_until(lambda: not served.uploads(), "the end of temporary files", PATIENCE_S)
