"""What the errors of a runner say, in one line where they are known."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
import grpc
import pytest

from pipeline import job as job_module
from pipeline.execution import run_graph
from pipeline.options import parse_options
from tests.audio_files import noise, write_soundfile
from transforms.errors import CatalogError, ClusterError, UsageError

TRACE = (
    "java.lang.RuntimeException: Error received from SDK harness for instruction 14: "
    "Traceback (most recent call last):\n"
    '  File "x.py", line 1, in f\n'
    "{}: full: 3 [x] tracks [while running 'Publish-ptransform-3']\n\n"
    "During handling of the above exception, another exception occurred:\n"
    "note: no error\n"
)


@pytest.fixture
def prepared(tmp_path, tiny_checkpoint):
    write_soundfile(tmp_path / "a.flac", noise(1.0, 22_050, 1, 0), 22_050, "FLAC", "PCM_16")
    given = [f"--input={tmp_path / 'a.flac'}", f"--output={tmp_path / 'out'}",
             f"--model={tiny_checkpoint}", "--workers=1", "--progress=none"]  # fmt: skip
    return job_module.prepare(parse_options(given))


def on_cluster(job):
    return dataclasses.replace(job, config=dataclasses.replace(job.config, runner="PrismRunner",
                               beam_args=("--job_endpoint=127.0.0.1:1",)))  # fmt: skip


def failing(monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(beam.Pipeline, "run", fail)


@pytest.mark.parametrize("name", ["StorageError", "BooksError"])
@pytest.mark.parametrize("where", [lambda job: job, on_cluster])
def test_a_worker_s_own_error_is_told_apart_from_a_bug(prepared, monkeypatch, name, where):
    """Beam hands on what happened in a worker as text."""
    failing(monkeypatch, RuntimeError(TRACE.format(f"transforms.errors.{name}")))
    with pytest.raises(CatalogError) as caught:
        run_graph(where(prepared))
    assert type(caught.value).__name__ == name
    assert str(caught.value) == "full: 3 [x] tracks"


def test_a_bug_in_a_worker_stays_one(prepared, monkeypatch):
    failing(monkeypatch, RuntimeError("KeyError: 'x' [while running 'Decode']"))
    with pytest.raises(RuntimeError, match="KeyError"):
        run_graph(prepared)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("No such\n jar"), "could not start the job: No such jar"),
        (FileNotFoundError(2, "gone", "java"), "could not start the job: .*gone: 'java'"),
        (grpc.RpcError("no more"), "lost the connection to the job: no more; the same call"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be_started(prepared, monkeypatch, error, line):
    failing(monkeypatch, error)
    with pytest.raises(ClusterError, match=f"^--runner=PrismRunner:? {line}"):
        run_graph(on_cluster(prepared))


def test_a_job_server_that_does_not_answer(prepared):
    job = on_cluster(prepared)
    given = (*job.config.beam_args, "--job_server_timeout=1")
    job = dataclasses.replace(job, config=dataclasses.replace(job.config, beam_args=given))
    with pytest.raises(ClusterError, match="PrismRunner could not start .*no job server answers"):
        run_graph(job)


@pytest.mark.parametrize(
    ("name", "told"),
    [("StageError", CatalogError), ("UsageError", UsageError), ("NoSuchError", ClusterError)],
)
def test_errors_that_are_not_made_of_a_message_alone(prepared, monkeypatch, name, told):
    failing(monkeypatch, RuntimeError(TRACE.format(f"transforms.errors.{name}")))
    with pytest.raises(CatalogError, match="full: 3") as caught:
        run_graph(on_cluster(prepared))
    assert type(caught.value) is told


class _Ended:
    """A result that Beam gives of a job."""

    state = beam.runners.runner.PipelineState.FAILED

    def __init__(self, error=None):
        self._error = error

    def wait_until_finish(self):
        if self._error is not None:
            raise self._error
        return self.state


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError(TRACE.format("KeyError")), "the job failed, see above: KeyError: full: 3"),
        (RuntimeError("a TaskManager is gone\nmore"), "see above: a TaskManager is gone; the same"),
        (None, "the job ended as FAILED; the same call goes on"),
    ],
)
def test_a_job_that_fails_on_a_cluster(prepared, monkeypatch, error, line):
    monkeypatch.setattr(beam.Pipeline, "run", lambda self: _Ended(error))
    with pytest.raises(ClusterError) as caught:
        run_graph(on_cluster(prepared))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
