"""The service under load: sustained rate, latencies, memory, start-up, beside the batch pipeline.

  python -m benchmarks.serve_load --tracks=FOLDER [--clients=1,8,32] [--png=FILE] [--json=FILE]

Starts pipeline.serve by itself, without and with its cache, and for each number of clients sends
the tracks as uploads over one connection each, a client's next request when the one before has
been answered, for --seconds. No two clients send the same track at once, so that nothing is
computed for two. Then --flat_requests short sounds, all of them decoded and computed, while the
memory of all of its processes is read. The batch pipeline's rate is that of the tracks which a
larger run of pipeline.main has more than a smaller one. Clients take part of the same cores: their
share is told.

Exit status: 0; 1 if a request failed; 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile as sf

from pipeline.process_memory import tree_bytes

_BOUNDARY = "catalog-labels-benchmark"
_HEADERS = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
_HEAD = """\
| cache | clients | requests | failed | a second | p50 ms | p95 ms | p99 ms | clients' cores |
|---|---|---|---|---|---|---|---|---|"""
_SHORT_FILES, _SHORT_SECONDS = 64, 2.0


@dataclass(frozen=True)
class Cell:
    """One number of clients."""

    cache: bool
    clients: int
    requests: int
    failed: int
    per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    client_cores: float  # that the clients themselves took


class Server:
    """A pipeline.serve of our own."""

    def __init__(self, options: Sequence[str]) -> None:
        started = time.monotonic()
        command = [sys.executable, "-m", "pipeline.serve", "--port=0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.port = 0
        for line in self.process.stderr:
            if found := re.search(r"listening at http://[^:]+:(\d+)", line):
                self.port = int(found[1])
            if "ready after" in line:
                break
        else:
            raise SystemExit(f"{' '.join(command)} ended: {self.process.wait()}")
        self.ready_seconds = time.monotonic() - started
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def served(*options: str) -> Iterator[Server]:
    server = Server(options)
    try:
        yield server
    finally:
        server.close()


def form(path: Path) -> bytes:
    head = (
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="{path.name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )
    return head.encode() + path.read_bytes() + f"\r\n--{_BOUNDARY}--\r\n".encode()


def post(port: int, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request("POST", "/v1/labels", body, _HEADERS)
    connection.getresponse().read()
    connection.close()


class Client(threading.Thread):
    """Sends one request after the other until told to stop."""

    def __init__(self, port: int, bodies: Sequence[bytes], stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._port, self._bodies, self._stop_asked = port, bodies, stop
        self.seconds: list[float] = []
        self.failed = 0

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        for body in itertools.cycle(self._bodies):
            if self._stop_asked.is_set():
                return connection.close()
            started = time.perf_counter()
            connection.request("POST", "/v1/labels", body, _HEADERS)
            answer = connection.getresponse()
            content = answer.read()
            self.seconds.append(time.perf_counter() - started)
            if answer.status != 200:
                self.failed += 1
                print(answer.status, content[:300], file=sys.stderr)


def load(
    port: int, bodies: Sequence[bytes], clients: int, seconds: float
) -> tuple[list[float], int, float, float]:
    """Seconds of each request, how many failed, how long it took, the clients' own seconds."""
    stop = threading.Event()
    threads = [Client(port, bodies[k::clients], stop) for k in range(clients)]
    started, own = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    spent = [one for thread in threads for one in thread.seconds]
    failed = sum(thread.failed for thread in threads)
    return spent, failed, took, time.process_time() - own


def measured_cell(
    server: Server, bodies: Sequence[bytes], clients: int, seconds: float, cache: bool
) -> Cell:
    spent, failed, took, own = load(server.port, bodies, clients, seconds)
    p50, p95, p99 = (1e3 * np.percentile(spent, q) for q in (50, 95, 99))
    cell = Cell(cache, clients, len(spent), failed, len(spent) / took, p50, p95, p99, own / took)
    print(row(cell), flush=True)
    return cell


def row(cell: Cell) -> str:
    return (
        f"| {'on' if cell.cache else 'off'} | {cell.clients} | {cell.requests:,} | {cell.failed} | "
        f"{cell.per_second:.1f} | {cell.p50_ms:.0f} | {cell.p95_ms:.0f} | {cell.p99_ms:.0f} | "
        f"{cell.client_cores:.2f} |"
    )


def batch_rate(tracks: Sequence[Path], model: str, sizes: tuple[int, int]) -> float:
    """Tracks per second of pipeline.main, but for its start-up."""
    took = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            catalog = Path(folder) / "catalog"
            catalog.mkdir()
            for number, track in enumerate(tracks[:size]):
                (catalog / f"{number}{track.suffix}").symlink_to(track.absolute())
            started = time.perf_counter()
            subprocess.run(
                [sys.executable, "-m", "pipeline.main", f"--input={catalog}", "--progress=none",
                 f"--output={folder}/labels", f"--model={model}"],
                check=True, capture_output=True,
            )  # fmt: skip
            took.append(time.perf_counter() - started)
    return (sizes[1] - sizes[0]) / (took[1] - took[0])


def short_sounds(folder: Path) -> list[Path]:
    """Noise under tones, each file other bytes."""
    random, at = np.random.default_rng(0), np.arange(int(_SHORT_SECONDS * 22_050)) / 22_050
    paths = []
    for number in range(_SHORT_FILES):
        sound = 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * at)
        sound += 0.01 * random.standard_normal(len(at))
        paths.append(folder / f"{number}.wav")
        sf.write(paths[-1], sound, 22_050, "PCM_16")
    return paths


def memory_course(
    server: Server, bodies: Sequence[bytes], requests: int, clients: int
) -> tuple[list[tuple[int, float]], int]:
    """(requests answered, MiB) in ten even steps, and how many failed."""
    stop = threading.Event()
    threads = [Client(server.port, bodies[k::clients], stop) for k in range(clients)]
    for thread in threads:
        thread.start()
    course: list[tuple[int, float]] = []
    while (done := sum(len(thread.seconds) for thread in threads)) < requests:
        if done >= len(course) * requests / 10:
            course.append((done, (tree_bytes(server.process.pid) or 0) / (1 << 20)))
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    course.append((done, (tree_bytes(server.process.pid) or 0) / (1 << 20)))
    return course, sum(thread.failed for thread in threads)


def draw(cells: Sequence[Cell], batch: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, (rates, delays) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for cache in (False, True):
        chosen = [cell for cell in cells if cell.cache is cache]
        clients = [cell.clients for cell in chosen]
        told = f"cache {'on' if cache else 'off'}"
        rates.plot(clients, [cell.per_second for cell in chosen], "o-", label=told)
        for q, style in (("p50", "o-"), ("p95", "s--"), ("p99", "^:")):
            delays.plot(clients, [getattr(cell, f"{q}_ms") for cell in chosen], style,
                        color=f"C{int(cache)}", label=f"{q}, {told}")  # fmt: skip
    rates.axhline(batch, color="grey", ls="--", label="batch pipeline")
    rates.set(xlabel="clients", ylabel="tracks a second", xscale="log", yscale="log")
    delays.set(xlabel="clients", ylabel="milliseconds to the answer", xscale="log", yscale="log")
    for axes in (rates, delays):
        axes.set_xticks(clients, [str(n) for n in clients])
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def told(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({', '.join(f'{value:.2f}' for value in values)})"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--tracks", type=Path, required=True, metavar="FOLDER", help="audio files, also below it")
    add("--model", default="genre-vit", help="(default: %(default)s)")
    add("--clients", default="1,8,32", help="numbers of clients (default: %(default)s)")
    add("--seconds", type=float, default=20.0, help="of each number (default: %(default)s)")
    add("--batch_sizes", default="40,200", help="tracks of two runs (default: %(default)s)")
    add("--rounds", type=int, default=3, help="of batch and service in turns (default: 3)")
    add("--flat_requests", type=int, default=20_000, help="(default: %(default)s; 0: none)")
    add("--option", action="append", default=[], help="a further option of pipeline.serve")
    add("--json", type=Path, metavar="FILE")
    add("--png", type=Path, metavar="FILE")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    tracks = sorted(p for p in options.tracks.rglob("*") if p.suffix in {".mp3", ".wav", ".flac"})
    small, large = map(int, options.batch_sizes.split(","))
    if len(tracks) < large:
        print(f"--tracks={options.tracks}: {len(tracks)} files, {large} needed", file=sys.stderr)
        return 2
    bodies = [form(track) for track in tracks]
    common = [f"--model={options.model}", "--max_in_work=256", *options.option]
    with served(*common, "--cache=none") as server:
        print(f"start to ready, with the page: {server.ready_seconds:.1f} s\n")
    print(_HEAD, flush=True)
    numbers = [int(number) for number in options.clients.split(",")]
    batches, cells = [], []
    with served(*common, "--cache=none", "--no-page") as server:
        load(server.port, bodies, 8, 5.0)  # to warm up
        for _ in range(options.rounds):  # in turns: a machine may be slower for a while
            batches.append(batch_rate(tracks, options.model, (small, large)))
            cells += [measured_cell(server, bodies, n, options.seconds, False) for n in numbers]
    with (
        tempfile.TemporaryDirectory() as folder,
        served(*common, f"--cache={folder}", "--no-page") as server,
        ThreadPoolExecutor(8) as threads,
    ):
        list(threads.map(lambda body: post(server.port, body), bodies))
        cells += [measured_cell(server, bodies, n, options.seconds, True) for n in numbers]
    rates = [max(c.per_second for c in cells[k * len(numbers) : (k + 1) * len(numbers)])
             for k in range(options.rounds)]  # fmt: skip
    batch = statistics.median(batches)
    shares = [rate / one for rate, one in zip(rates, batches, strict=True)]
    print(f"\nbatch pipeline, tracks a second on {os.cpu_count()} cores: {told(batches)}")
    print(f"sustained without cache: {told(rates)}; of the batch pipeline: {told(shares)}")
    failed = sum(cell.failed for cell in cells)
    course: list[tuple[int, float]] = []
    if options.flat_requests:
        with tempfile.TemporaryDirectory() as folder:
            short = [form(path) for path in short_sounds(Path(folder))]
            with served(*common, "--cache=none", "--no-page") as server:
                course, lost = memory_course(server, short, options.flat_requests, 8)
                failed += lost
        print("\nmemory of all processes, MiB, after so many requests:")
        print(", ".join(f"{done:,}: {mib:.0f}" for done, mib in course))
    if options.png:
        draw(cells, batch, options.png)
    if options.json:
        content = {
            "batch_per_second": batches,
            "cells": [asdict(c) for c in cells],
            "memory": course,
        }
        options.json.write_text(json.dumps(content, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
