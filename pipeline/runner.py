"""Which Beam runner a run uses, with which Beam options, and what ends it early."""

from __future__ import annotations

import importlib
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType

import apache_beam as beam
from apache_beam.options import pipeline_options
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.portability.api import beam_provision_api_pb2 as provision
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.runners.runner import PipelineRunner, create_runner
from apache_beam.transforms.environments import Environment

from pipeline.clusters import cluster_options
from pipeline.forked_workers import ForkedEnvironment
from pipeline.forkserver import fork_server
from pipeline.jobs import RunnerConfig
from pipeline.resources import available_cores, choose_threads
from transforms.errors import CatalogError, UsageError


def beam_options(config: RunnerConfig) -> PipelineOptions:
    """Beam's own options: what was passed on, and the workers of DirectRunner.

    Raises
    ------
    UsageError
        If an option is neither ours nor Beam's, which would ignore it, or the runner's cluster
        is not there.
    """
    args = list(config.beam_args)
    if config.runner == "DirectRunner":
        args.append(f"--direct_num_workers={config.workers}")
    return runner_options(config.runner, args)


def runner_options(runner: str, args: Sequence[str]) -> PipelineOptions:
    """Beam's options of a runner: what was passed on, and what its cluster needs.

    Raises
    ------
    UsageError
        As :func:`beam_options`.
    """
    given = list(args)
    _check_known(given)
    given += cluster_options(runner, given)
    return PipelineOptions([f"--runner={runner}", *given])


def _check_known(args: list[str]) -> None:
    parser = pipeline_options._BeamArgumentParser(allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(args)
    if unknown:
        raise UsageError(
            f"{unknown[0]}: not an option of this program or of Apache Beam; see --help"
        )


def threads_per_worker(config: RunnerConfig) -> int:
    """PyTorch's threads in each worker process."""
    if config.runner != "DirectRunner":
        return 1  # clusters start one worker process per core
    return choose_threads(available_cores(), config.workers)


def check_runner(name: str, options: PipelineOptions) -> None:
    """Fail before any work if Beam has no such runner, or it lacks what it needs.

    Raises
    ------
    UsageError
    """
    try:
        runner = create_runner(name)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise UsageError(f"--runner={name}: {' '.join(str(error).split())}") from error
    if name == "DataflowRunner":
        try:  # Beam itself looks only once the graph is built
            importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
        except ImportError as error:
            raise UsageError(
                f"--runner={name} needs Google's libraries ({error}): pip install "
                "'catalog-labels[gcp]'"
            ) from error
    if wrong := PipelineOptionsValidator(options, runner).validate():
        raise UsageError(f"--runner={name}: {' '.join(wrong)}")


def only_template(config: RunnerConfig) -> bool:
    """Whether a run is a template for Dataflow, which starts the job after this program's end."""
    options = PipelineOptions(list(config.beam_args)).view_as(GoogleCloudOptions)
    return config.runner == "DataflowRunner" and options.template_location is not None


def make_runner(config: RunnerConfig, options: PipelineOptions) -> PipelineRunner | str:
    """The runner: Beam's in-process FnApiRunner for DirectRunner, else by its name.

    Beam's own DirectRunner first tries to download a Prism binary; which runner a user gets
    would depend on the network. The provision info hands the options (credentials among them)
    to worker processes.
    """
    if config.runner != "DirectRunner":
        return config.runner
    return _local_runner(config.workers, options)


def run_locally(
    build: Callable[[beam.Pipeline], None], workers: int, args: Sequence[str] = ()
) -> None:
    """Build a pipeline and run it to its end in worker processes on this machine.

    Parameters
    ----------
    build : callable
        Builds it with the pipeline that it is given.
    workers : int
    args : sequence of str
        More options of Beam's, of file systems for example.
    """
    given = ["--runner=DirectRunner", f"--direct_num_workers={workers}", *args]
    options = PipelineOptions(given)
    pipeline = beam.Pipeline(runner=_local_runner(workers, options), options=options)
    build(pipeline)
    pipeline.run().wait_until_finish()


def _local_runner(workers: int, options: PipelineOptions) -> PipelineRunner:
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    info = fn_runner.ExtendedProvisionInfo(provision.ProvisionInfo(pipeline_options=encoded))
    return fn_runner.FnApiRunner(_worker_environment(workers), provision_info=info)


def _worker_environment(workers: int) -> Environment | None:
    """Several workers are processes of their own; one shares this process."""
    return None if workers == 1 else ForkedEnvironment.of(fork_server())


class Interrupts:
    """Ends a run at once when it is interrupted, terminated, or a worker process dies.

    Beam waits for the other workers' bundles after the death of one, which may be most of the
    run, and turns an interrupt inside a stage into a RuntimeError. To be used in the main thread.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._over = False
        self._death: BaseException | None = None

    def __enter__(self) -> Interrupts:
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        self._handlers = {
            number: signal.signal(number, self._interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)  # schedulers end a job by the second
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._over = True
        if error is None:
            threading.excepthook = self._hook  # else the other workers' ends are of no interest
        elif self._death is not None:
            raise CatalogError(
                f"a worker process died: {self._death} (-9 is mostly too little memory: try "
                "fewer --workers)"
            ) from None
        elif self._interrupted:
            raise KeyboardInterrupt from None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = self._over = True
        logging.disable()  # what comes to an end now complains about it
        raise KeyboardInterrupt

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        if self._over:
            return
        if args.thread is None or args.thread.name != "run_worker":  # Beam's name
            self._hook(args)
        else:
            self._death = args.exc_value
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
