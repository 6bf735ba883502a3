"""The record of a run and the table at its end."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from types import SimpleNamespace

from pipeline import run_record
from transforms.books import Books


def metric(namespace, name, result):
    return SimpleNamespace(
        key=SimpleNamespace(metric=SimpleNamespace(namespace=namespace, name=name)), result=result
    )


def spread(total, count):
    return SimpleNamespace(sum=total, count=count)


def test_stage_timings_are_of_our_stages_in_their_order():
    found = {
        "counters": [
            metric("RollUp", "elements_in", 5),
            metric("Decode", "elements_in", 7),
            metric("Decode", "failed_corrupt", 2),
            metric("apache_beam.something", "elements_in", 99),
        ],
        "distributions": [
            metric("Decode", "busy_microseconds", spread(1_234_567, 7)),
            metric("Decode", "other", spread(1, 1)),
            metric("BeamML_ViT", "inference_batch_latency_micro_secs", spread(2_500_000, 4)),
        ],
    }
    result = SimpleNamespace(metrics=lambda: SimpleNamespace(query=lambda: found))
    timings = run_record.stage_timings(result)
    assert timings == {
        "Decode": {"elements_in": 7, "failed_corrupt": 2, "busy_seconds": 1.235},
        "RunInference": {"batches": 4, "model_seconds": 2.5},
        "RollUp": {"elements_in": 5},
    }
    assert list(timings) == ["Decode", "RunInference", "RollUp"]


def test_credentials_are_not_written_down():
    given = ["--s3_secret_access_key=abc", "--s3_region_name=eu", "--azure_token", "abc",
             "--password", "--parallelism=2", "abc"]  # fmt: skip
    assert run_record.without_secrets(given) == [
        "--s3_secret_access_key=(hidden)", "--s3_region_name=eu", "--azure_token", "(hidden)",
        "--password", "--parallelism=2", "abc",
    ]  # fmt: skip


def test_what_each_worker_did():
    found = {
        "counters": [
            metric("Worker/b/7/8", "tracks", 3),
            metric("Worker/a/7/9", "audio_milliseconds", 1000),
            metric("Worker/a/7/9", "tracks", None),
            metric("Decode", "tracks", 5),
        ]
    }
    result = SimpleNamespace(metrics=lambda: SimpleNamespace(query=lambda: found))
    assert run_record.worker_shares(result) == [
        {"host": "a", "parent_pid": 7, "pid": 9, "audio_milliseconds": 1000, "tracks": 0},
        {"host": "b", "parent_pid": 7, "pid": 8, "tracks": 3},
    ]


def test_versions_are_those_installed():
    versions = run_record.versions()
    assert versions["numpy"] == metadata.version("numpy")
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"apache-beam", "torch", "transformers", "pyarrow", "soxr", "av"} <= versions.keys()


def test_write_json_is_readable_as_it_is(tmp_path):
    content = {"name": "ünïcödé", "nothing": None, "list": [1, 2.5]}
    run_record.write_json(str(tmp_path / "run.json"), content)
    text = (tmp_path / "run.json").read_text(encoding="utf-8")
    assert json.loads(text) == content
    assert "ünïcödé" in text
    assert text.endswith("}\n")


def test_summary():
    books = Books(
        listed=1_234_567,
        labelled=1_234_560,
        failed=4,
        skipped=3,
        labelled_by_label={"pop": 4, "rock": 1_234_552, "jazz": 4},
        failed_by_reason={"corrupt": 4},
        skipped_by_outcome={"failed": 1, "labelled": 2},
    )
    assert run_record.summary(books, 12.34, "out").splitlines() == [
        "1,234,567  inputs in 12.3 s",
        "1,234,560  labelled",
        "    1,234,552  rock",
        "            4  jazz",
        "            4  pop",
        "        4  failed",
        "            4  corrupt",
        "        3  skipped, unchanged since an earlier run",
        "            2  labelled then",
        "            1  failed then",
        "results: out",
    ]


def test_summary_says_nothing_of_skipping_where_nothing_was_skipped():
    assert "skipped" not in run_record.summary(Books(1, 1, 0, 0, {"pop": 1}), 1.0, "out")
