"""A labelling run from its configuration to its exit status; the latter part is any job's."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import secrets
import sys
import time
from typing import Any

from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from pipeline import __version__, run_record
from pipeline.arithmetic import model_fingerprint, resolve_arithmetic
from pipeline.execution import run_graph
from pipeline.flink import cancel_jobs
from pipeline.graph import LabelJob
from pipeline.jobs import Job
from pipeline.options import LabelConfig
from pipeline.profile import profile, table
from pipeline.program import EXIT_DONE, EXIT_TOO_MANY_FAILURES
from pipeline.recovery import forget, recover, remove_journal, unfinished_runs
from pipeline.resources import available_cores, choose_batch_size, described
from pipeline.run_id import new_run_id
from pipeline.runner import beam_options, check_runner, only_template, threads_per_worker
from transforms.audio.sandbox import DecoderLimits
from transforms.books import Books, read_books
from transforms.denoise import find_denoiser
from transforms.errors import StorageError, UsageError
from transforms.journal import commit_count
from transforms.manifest import carried_schema, file_uri_path, is_local, is_manifest
from transforms.models.checkpoint import load_checkpoint
from transforms.models.vit import gpu_bytes
from transforms.provenance import Provenance
from transforms.read import check_inputs
from transforms.storage.lock import locked


def prepare(config: LabelConfig) -> LabelJob:
    """Look up and check everything that can be wrong before any work.

    Raises
    ------
    UsageError
        In one line, what is wrong and what to do.
    """
    if (named := file_uri_path(config.output)) is not None:
        config = dataclasses.replace(config, output=named)
    options = beam_options(config)
    FileSystems.set_options(options)
    check_runner(config.runner, options)
    changes = dict(config.front_end_changes)
    if denoiser := find_denoiser(changes.get("denoise")):
        changes["denoise"] = denoiser.setting
    checkpoint = load_checkpoint(
        config.model, front_end_preset=config.front_end_preset, front_end_changes=changes
    )
    here = config.runner == "DirectRunner"
    device, precision = resolve_arithmetic(
        checkpoint, config.device, config.precision, on_this_machine=here
    )
    check_inputs(config.inputs)
    carried = carried_schema([path for path in config.inputs if is_manifest(path)])
    check_writable(config.output)
    return LabelJob(
        config=config,
        checkpoint=checkpoint,
        carried=carried,
        provenance=Provenance(
            run_id=new_run_id(),
            pipeline_version=__version__,
            model_fingerprint=model_fingerprint(checkpoint, precision),
            front_end_fingerprint=checkpoint.front_end.fingerprint(),
        ),
        device=device,
        precision=precision,
        threads=threads_per_worker(config),
        batch_size=config.batch_size or choose_batch_size(gpu_bytes(device)),
        limits=DecoderLimits(config.decode_timeout_seconds, config.decode_memory_mib << 20),
        denoiser=denoiser,
    )


def check_writable(output: str) -> None:
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


def run(job: Job) -> int:
    """Execute the job and print its table.

    Returns
    -------
    int
        ``EXIT_DONE`` or ``EXIT_TOO_MANY_FAILURES``.

    Raises
    ------
    UsageError
        If another run is writing into the same output.
    RunError
        If the output is full or fails, or decoders do not start; the same call goes on from there.
    """
    started = time.monotonic()
    with locked(job.config.output):
        if unfinished := unfinished_runs(job.config.output):
            left = cancel_jobs(beam_options(job.config), unfinished)
            if left:
                print(f"cancelled what outlived its launcher: {', '.join(left)}", file=sys.stderr)
        resumed = recover(job.config.output, json_lines=job.config.format == "json")
        if resumed:
            print(f"going on from {', '.join(resumed)}", file=sys.stderr)
        if job.config.progress != "none":
            print(described(run_record.resources(job)), file=sys.stderr)
        books = execute(dataclasses.replace(job, resumed_runs=resumed))
    if books is None:
        print(
            "a template is made, from which Dataflow starts the job; once that has ended, the same "
            "command without --template_location closes its books"
        )
        return EXIT_DONE
    seconds = time.monotonic() - started
    print(run_record.summary(books, seconds, job.config.output, job.results.done))
    if books.failure_rate <= job.config.max_failure_rate:
        return EXIT_DONE
    print(
        f"{books.failure_rate:.1%} of the inputs failed, more than --max_failure_rate="
        f"{job.config.max_failure_rate} allows",
        file=sys.stderr,
    )
    return EXIT_TOO_MANY_FAILURES


def execute(job: Job) -> Books | None:
    """Run the graph and write the run's JSON, whether it succeeds or not.

    Returns
    -------
    Books or None
        Balanced counts. None after a template: its run looks like a killed one to the next, which
        takes over its rows.
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

    commit_count(job.journal, "listed", 0)  # lets the next run find one that is killed right away
    record("running", books=None, timings={})
    forget(job.config.output, job.provenance.run_id)
    graph_started = time.monotonic()
    try:
        result = run_graph(job)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        try:
            record(status, books=None, timings={})
        except StorageError as storage:  # perhaps what failed the run as well
            print(f"the run's record stays as it is: {storage}", file=sys.stderr)
        if status == "interrupted":
            print("what is finished is kept: the same call goes on from there", file=sys.stderr)
        raise
    if only_template(job.config):
        return None
    books = read_books(job.books_path)
    timings = run_record.stage_timings(result)
    found = _profile(job, result, time.monotonic() - graph_started, timings)
    workers = run_record.worker_shares(result)
    record("done", books=books, timings=timings, workers=workers, profile=found)
    if job.config.profile and found is not None:
        print(table(found, job.profile_parts))
    remove_journal(job.journal)
    return books


def _profile(
    job: Job, result: Any, seconds: float, timings: dict[str, dict[str, float]]
) -> dict[str, Any] | None:
    """Where the time went; None on a cluster, whose cores nobody has counted."""
    if job.config.runner != "DirectRunner":
        return None
    return profile(
        result,
        seconds=seconds,
        cores=max(available_cores(), job.config.workers * job.threads),
        threads=job.threads if job.computing["device"] == "cpu" else 1,
        model_seconds=timings.get("RunInference", {}).get("model_seconds", 0.0),
        parts=job.profile_parts,
    )
