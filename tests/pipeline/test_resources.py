"""What a run takes of a machine."""

from __future__ import annotations

import pytest

from pipeline import resources
from pipeline.resources import (
    SHARED_BYTES,
    WORKER_BYTES,
    available_bytes,
    available_cores,
    choose_batch_size,
    choose_threads,
    choose_workers,
    cpu_quota,
    described,
    free_bytes,
    memory_limit,
)


@pytest.mark.parametrize(
    ("cores", "free", "workers"),
    [
        (2, None, 2),
        (2, 23 << 30, 2),
        (16, 4 << 30, 6),
        (16, 128 << 30, 16),
        (8, SHARED_BYTES + 3 * WORKER_BYTES, 3),
        (8, SHARED_BYTES + 3 * WORKER_BYTES - 1, 2),
        (8, 0, 1),
    ],
)
def test_a_worker_per_core_as_far_as_the_memory_goes(cores, free, workers):
    assert choose_workers(cores, free) == workers


@pytest.mark.parametrize("cores", range(1, 20))
@pytest.mark.parametrize("workers", range(1, 20))
def test_threads_use_the_cores_and_never_more(cores, workers):
    threads = choose_threads(cores, workers)
    assert threads >= 1
    assert threads == 1 or threads * workers <= cores
    assert (threads + 1) * workers > cores


@pytest.mark.parametrize(
    ("gpu_bytes", "batch_size"),
    [(None, 8), (141 << 30, 64), (8 << 30, 64), (6 << 30, 32), (1 << 30, 8), (1 << 20, 1)],
)
def test_batches_by_the_memory_of_the_gpu(gpu_bytes, batch_size):
    assert choose_batch_size(gpu_bytes) == batch_size


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000\n", 0.5), (None, None)],
)
def test_a_container_s_quota(tmp_path, text, cores):
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (1.5, 2), (0.2, 1), (40.0, 8)])
def test_cores_under_a_quota(monkeypatch, quota, cores):
    monkeypatch.setattr(resources.os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(resources, "cpu_quota", lambda cgroup: quota)
    assert available_cores() == cores


def test_a_container_s_memory(tmp_path):
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("1500\n")
    assert memory_limit(tmp_path) == 500
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 300\nactive_file 200\n")
    assert memory_limit(tmp_path) == 800
    (tmp_path / "memory.stat").unlink()
    (tmp_path / "memory.max").write_text("900\n")
    assert memory_limit(tmp_path) == 0


def test_free_memory(tmp_path):
    told = tmp_path / "meminfo"
    assert free_bytes(told) is None
    told.write_text("MemTotal:       100 kB\nMemFree:   5 kB\nMemAvailable:    40 kB\n")
    assert free_bytes(told) == 40 << 10


@pytest.mark.parametrize(
    ("machine", "container", "free"),
    [(5, 3, 3), (5, 9, 5), (None, 3, 3), (5, None, 5), (None, None, None)],
)
def test_the_tighter_limit_counts(monkeypatch, machine, container, free):
    monkeypatch.setattr(resources, "free_bytes", lambda path: machine)
    monkeypatch.setattr(resources, "memory_limit", lambda path: container)
    assert available_bytes() == free


def test_one_line_of_what_a_run_takes():
    chosen = {
        "runner": "DirectRunner", "workers": 2, "threads_per_worker": 1, "cores": 2,
        "free_gib": 21.5, "device": "cpu", "precision": "bfloat16", "batch_size": 8,
        "weights": "shared",
    }  # fmt: skip
    assert described(chosen) == (
        "2 workers with 1 thread each (2 cores, 21.5 GiB free), batches of 8, bfloat16 on cpu, "
        "weights shared"
    )
    assert described({**chosen, "runner": "FlinkRunner", "workers": None}) == (
        "workers as FlinkRunner has them, 1 thread each, batches of 8, bfloat16 on cpu"
    )
