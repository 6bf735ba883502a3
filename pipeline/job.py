"""A labelling run from its configuration to its exit status."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import secrets
import sys
import time
from typing import Any, cast

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipeline import __version__, run_record
from pipeline.graph import LabelJob, build_pipeline
from pipeline.options import LabelConfig
from pipeline.program import EXIT_DONE, EXIT_TOO_MANY_FAILURES
from pipeline.progress import Progress
from pipeline.runner import Interrupts, beam_options, check_runner, make_runner, threads_per_worker
from transforms.books import Books, read_books
from transforms.errors import UsageError
from transforms.journal import count_rows
from transforms.listing import match
from transforms.manifest import carried_schema, check_manifest, is_local, is_manifest
from transforms.models.checkpoint import Checkpoint, load_checkpoint
from transforms.models.vit import Device, Precision, resolve_device, resolve_precision
from transforms.read import check_inputs
from transforms.rollup import Provenance


def prepare(config: LabelConfig) -> LabelJob:
    """Look up and check everything that can be wrong before any work.

    Raises
    ------
    UsageError
        In one line, what is wrong and what to do.
    """
    FileSystems.set_options(beam_options(config))
    check_runner(config.runner)
    checkpoint = load_checkpoint(
        config.model,
        front_end_preset=config.front_end_preset,
        front_end_changes=config.front_end_changes,
    )
    device, precision = _resolve_arithmetic(config)
    check_inputs(config.inputs)
    carried = carried_schema([path for path in config.inputs if is_manifest(path)])
    _check_writable(config.output)
    now = dt.datetime.now(dt.timezone.utc)
    return LabelJob(
        config=config,
        checkpoint=checkpoint,
        carried=carried,
        provenance=Provenance(
            run_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}",
            pipeline_version=__version__,
            model_fingerprint=_model_fingerprint(checkpoint, precision),
            front_end_fingerprint=checkpoint.front_end.fingerprint(),
        ),
        device=device,
        precision=precision,
        threads=threads_per_worker(config),
    )


def _resolve_arithmetic(config: LabelConfig) -> tuple[Device, Precision]:
    """Device and number type for all workers: a row must not depend on which one made it.

    The machines of a cluster may differ from this one and from each other, so that "auto" is
    float32 there, which all of them have.
    """
    asked = cast(Precision, config.precision)
    if config.runner != "DirectRunner":
        return cast(Device, config.device), "float32" if asked == "auto" else asked
    device = cast(Device, resolve_device(cast(Device, config.device)))
    return device, resolve_precision(asked, device)


def _model_fingerprint(checkpoint: Checkpoint, precision: Precision) -> str:
    """The checkpoint's, marked where scores are not those of float32."""
    return checkpoint.fingerprint + ("" if precision == "float32" else f"-{precision}")


def _check_writable(output: str) -> None:
    """Write and remove a file under the output folder."""
    if found := set("*?[") & set(output):
        raise UsageError(
            f"--output={output}: Beam takes {' '.join(sorted(found))} for a glob and would fail "
            "at the end of the run; choose another name"
        )
    probe = f"{output}/runs/.writable-{secrets.token_hex(4)}"
    try:
        if is_local(output):
            FileSystems.mkdirs(f"{output}/runs")
    except (OSError, BeamIOError) as error:
        if not FileSystems.exists(f"{output}/runs"):
            raise UsageError(f"--output={output} cannot be created: {error}") from error
    logging.disable()  # Beam logs a traceback of what the one line says
    try:
        with FileSystems.create(probe) as stream:
            stream.write(b"can be written\n")  # Beam's S3 client fails on an empty object
        FileSystems.delete([probe])
    except Exception as error:  # each file system has its own kinds
        raise UsageError(f"--output={output} cannot be written: {error}") from error
    finally:
        logging.disable(logging.NOTSET)


def count_inputs(config: LabelConfig) -> int:
    """Files that the inputs name; a file that two inputs name counts twice."""
    return sum(
        check_manifest(path)[1] if is_manifest(path) else sum(1 for _ in match(path))
        for path in config.inputs
    )


def run(job: LabelJob) -> int:
    """Execute the job and print its table.

    Returns
    -------
    int
        ``EXIT_DONE`` or ``EXIT_TOO_MANY_FAILURES``.
    """
    started = time.monotonic()
    books = execute(job)
    print(run_record.summary(books, time.monotonic() - started, job.config.output))
    if books.failure_rate <= job.config.max_failure_rate:
        return EXIT_DONE
    print(
        f"{books.failure_rate:.1%} of the inputs failed, more than --max_failure_rate="
        f"{job.config.max_failure_rate} allows",
        file=sys.stderr,
    )
    return EXIT_TOO_MANY_FAILURES


def execute(job: LabelJob) -> Books:
    """Run the graph and write the run's JSON, whether it succeeds or not.

    Returns
    -------
    Books
        Balanced counts.
    """
    started_at, started = dt.datetime.now(dt.timezone.utc).isoformat(), time.monotonic()

    def record(status: str, **results: Any) -> None:
        content = run_record.run_json(
            job,
            status=status,
            started_at=started_at,
            seconds=time.monotonic() - started,
            **results,
        )
        run_record.write_json(f"{job.config.output}/runs/{job.provenance.run_id}.json", content)

    try:
        result = _run_graph(job)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record(status, books=None, timings={})
        _remove_unfinished(job)
        raise
    books = read_books(job.books_path)
    record("done", books=books, timings=run_record.stage_timings(result))
    _delete_tree(job.journal)
    return books


def _delete_tree(folder: str) -> None:
    """Delete a folder; on object stores the closing / says that all below it is meant."""
    FileSystems.delete([folder if is_local(folder) else f"{folder}/"])


def _remove_unfinished(job: LabelJob) -> None:
    """Remove Beam's temporary files, which a reader of the whole folder would take for rows."""
    for name in ("predictions", "windows", "failures"):
        pattern = f"{job.config.output}/{name}/beam-temp-{job.provenance.run_id}*/**"
        try:
            (found,) = FileSystems.match([pattern])
            for folder in {metadata.path.rpartition("/")[0] for metadata in found.metadata_list}:
                _delete_tree(folder)
        except (OSError, BeamIOError) as error:
            print(f"could not remove {pattern}: {error}", file=sys.stderr)


def _run_graph(job: LabelJob) -> Any:
    options = beam_options(job.config)
    progress = Progress(
        count=lambda: dict(count_rows(job.journal)),
        count_inputs=lambda: count_inputs(job.config),
        style=job.config.progress,
    )
    with progress, Interrupts():
        pipeline = beam.Pipeline(runner=make_runner(job.config, options), options=options)
        build_pipeline(pipeline, job)
        result = pipeline.run()
        with contextlib.closing(_Cancelling(result)):
            state = result.wait_until_finish()
    if state != beam.runners.runner.PipelineState.DONE:
        raise RuntimeError(f"the pipeline ended as {state}")
    return result


class _Cancelling:
    """Cancels a run that is left before it has ended (an interrupt from the keyboard)."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def close(self) -> None:
        if not beam.runners.runner.PipelineState.is_terminal(self._result.state):
            self._result.cancel()
