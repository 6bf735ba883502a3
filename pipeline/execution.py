"""The graph on its runner, from its start to its end; a runner's errors in one line."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import Any

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipeline.flink import cancel_jobs, job_name
from pipeline.forkserver import fork_server
from pipeline.jobs import Job
from pipeline.progress import Progress
from pipeline.runner import Interrupts, beam_options, make_runner
from transforms import errors
from transforms.errors import CatalogError, ClusterError, StageError
from transforms.journal import count_rows

_RAISED = re.compile(
    r"^((?:\w+\.)*\w+(?:Error|Exception)): (.*?)(?: \[while running .*)?$", re.MULTILINE
)
_OWN = re.compile(r"^transforms\.errors\.(\w+)$")
# Beam stops its own job server when its waiting is interrupted; then the channel to it is closed.
_NO_SERVER = (grpc.RpcError, ValueError)
_LOST = "the same call goes on from what is finished, once no job of it is left on the cluster"


def run_graph(job: Job) -> Any:
    """Run the job's graph to its end.

    Returns
    -------
    beam.runners.runner.PipelineResult
        Of a run that is done.

    Raises
    ------
    CatalogError
        Of a stage, wherever that ran; ClusterError if a cluster's job fails otherwise.
    KeyboardInterrupt
        When interrupted or terminated; the job is cancelled.
    """
    options = beam_options(job.config)
    run_id = job.provenance.run_id
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = job_name(run_id, cloud.job_name)
    progress = Progress(
        lambda: count_rows(job.journal), style=job.config.progress, doing=job.results.doing
    )
    tell_own_errors_once()
    with progress, Interrupts():
        if job.config.workers > 1 and job.config.runner == "DirectRunner" and job.shared_model:
            fork_server().load(**job.shared_model)
        pipeline = beam.Pipeline(runner=make_runner(job.config, options), options=options)
        job.build(pipeline)
        return run_to_end(pipeline, job.config.runner, options, run_id)


def run_to_end(pipeline: beam.Pipeline, runner: str, options: PipelineOptions, run_id: str) -> Any:
    """Run a graph that is built; its result and its errors are those of :func:`run_graph`.

    Parameters
    ----------
    pipeline : beam.Pipeline
    runner : str
        Its name, for messages.
    options : PipelineOptions
        Of the pipeline.
    run_id : str
        By which a cluster's job is found that is to be cancelled.
    """
    try:
        result = _start(pipeline, runner)
        with contextlib.closing(_Cancelling(result, options, run_id)):
            state = result.wait_until_finish()
    except RuntimeError as error:
        raise _told(error, runner) or error from None
    except grpc.RpcError as error:
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        raise ClusterError(
            f"--runner={runner}: lost the connection to the job: {details}; {_LOST}"
        ) from error
    except CatalogError as error:  # of a stage in this process
        message, _, _ = str(error).partition(" [while running ")
        raise _again(type(error), message) from error
    if state != PipelineState.DONE:
        raise ClusterError(f"--runner={runner}: the job ended as {state}; {_LOST}")
    return result


def tell_own_errors_once() -> None:
    """Keep from the log what the program tells in one line at its end."""
    for handler in logging.root.handlers:
        handler.addFilter(_is_news)


def _start(pipeline: beam.Pipeline, runner: str) -> Any:
    try:
        return pipeline.run()
    except (RuntimeError, OSError, grpc.FutureTimeoutError) as error:
        if runner == "DirectRunner" or _own_error(str(error)):
            raise
        no_answer = isinstance(error, grpc.FutureTimeoutError)
        line = "no job server answers" if no_answer else " ".join(str(error).split())
        raise ClusterError(f"--runner={runner} could not start the job: {line}") from error


def _told(error: RuntimeError, runner: str) -> CatalogError | None:
    """What a job's error says in one line; None if it is one of this process, a bug."""
    text = str(error)
    if (own := _own_error(text)) is not None:
        return own
    if runner == "DirectRunner":
        return None
    raised = [": ".join(found) for found in _RAISED.findall(text)]
    line = raised[-1] if raised else text.partition("\n")[0]
    return ClusterError(f"--runner={runner}: the job failed, see above: {line}; {_LOST}")


def _own_error(text: str) -> CatalogError | None:
    """The error of this project that a worker ended with, out of the traceback that Beam passes."""
    for name, message in reversed(_RAISED.findall(text)):
        own = _OWN.match(name)
        kind = getattr(errors, own[1], None) if own else None
        if kind is not None:
            return _again(kind, message)
    return None


def _again(kind: type[CatalogError], message: str) -> CatalogError:
    """An error of a kind with another message; StageError takes more than that."""
    return CatalogError(message) if issubclass(kind, StageError) else kind(message)


def _is_news(record: logging.LogRecord) -> bool:
    """False for the tracebacks that Beam logs of errors that the program tells in one line."""
    raised = record.exc_info[1] if record.exc_info else None
    return not (isinstance(raised, CatalogError) or "transforms.errors." in record.getMessage())


class _Cancelling:
    """Cancels a run that is left before it has ended (an interrupt from the keyboard)."""

    def __init__(self, result: Any, options: PipelineOptions, run_id: str) -> None:
        self._result = result
        self._options = options
        self._run_id = run_id

    def close(self) -> None:
        if self._is_over():
            return
        cancel_jobs(self._options, [self._run_id])
        with contextlib.suppress(*_NO_SERVER):
            self._result.cancel()

    def _is_over(self) -> bool:
        try:
            over: bool = PipelineState.is_terminal(self._result.state)
        except _NO_SERVER:
            return False
        return over
