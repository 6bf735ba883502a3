"""The runner's choice and options, and the ways in which a run ends early."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from contextlib import nullcontext
from types import ModuleType

import pytest
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    S3Options,
    StandardOptions,
)
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from pipeline import runner
from pipeline.forked_workers import ForkedEnvironment
from pipeline.options import parse_options
from pipeline.runner import (
    Interrupts,
    beam_options,
    check_runner,
    make_runner,
    threads_per_worker,
)
from transforms.errors import CatalogError, UsageError


def config(*options):
    return parse_options(["--input=a", "--output=o", *options])


def test_beam_s_own_options_are_passed_on():
    options = beam_options(config("--workers=3", "--s3_endpoint_url=http://here"))
    assert options.view_as(S3Options).s3_endpoint_url == "http://here"
    assert options.view_as(DirectOptions).direct_num_workers == 3
    assert options.view_as(StandardOptions).runner == "DirectRunner"


def test_workers_are_of_directrunner_alone():
    options = beam_options(config("--runner=PortableRunner", "--workers=3"))
    assert options.view_as(DirectOptions).direct_num_workers == 1
    assert options.view_as(StandardOptions).runner == "PortableRunner"


@pytest.mark.parametrize("wrong", ["--bogus=1", "--bogus", "--batchsize=3", "--inputs=a", "extra"])
def test_an_option_of_nobody_is_a_wrong_call(wrong):
    with pytest.raises(UsageError, match="not an option of this program or of Apache Beam") as e:
        beam_options(config(wrong))
    assert wrong in str(e.value)


@pytest.mark.parametrize("name", ["NoRunner", "no.such.Runner", "os.path"])
def test_a_runner_that_beam_does_not_have_is_a_wrong_call(name):
    with pytest.raises(UsageError, match=f"--runner={name}: ") as caught:
        check_runner(name, PipelineOptions([]))
    assert "\n" not in str(caught.value)


def test_dataflow_without_google_s_libraries_is_a_wrong_call(monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    with pytest.raises(UsageError, match=r"--runner=DataflowRunner needs .*catalog-labels\[gcp\]"):
        check_runner("DataflowRunner", PipelineOptions([]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--region=r", "--temp_location=gs://bucket/tmp"], "project"),
        (["--project=project-1", "--region=r", "--temp_location=/tmp"], "/tmp.*temp_location"),
        (["--project=project-1", "--region=r", "--temp_location=gs://bucket/tmp",
          "--num_workers=3", "--max_num_workers=2"], "cannot exceed"),
        (["--project=project-1", "--region=r", "--temp_location=gs://bucket/tmp"], None),
    ],
)  # fmt: skip
def test_options_that_dataflow_refuses_are_a_wrong_call(options, said, monkeypatch):
    client = ModuleType("apiclient")  # as if Google's libraries were installed
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", client)
    monkeypatch.setattr(GoogleCloudOptions, "_create_default_gcs_bucket", lambda self: None)
    refused = nullcontext() if said is None else pytest.raises(UsageError, match=said)
    with refused:
        check_runner("DataflowRunner", PipelineOptions(options))


@pytest.mark.parametrize("name", ["DirectRunner", "FlinkRunner", "FnApiRunner"])
def test_runners_that_beam_has(name):
    check_runner(name, PipelineOptions([]))


@pytest.mark.parametrize(
    ("options", "threads"),
    [
        (["--workers=1"], 8),
        (["--workers=3"], 2),
        (["--workers=8"], 1),
        (["--workers=20"], 1),
        (["--workers=1", "--runner=FlinkRunner"], 1),
    ],
)
def test_threads_never_exceed_the_cores(monkeypatch, options, threads):
    monkeypatch.setattr(runner, "available_cores", lambda: 8)
    assert threads_per_worker(config(*options)) == threads


def test_directrunner_is_in_process_and_never_prism():
    assert isinstance(make_runner(config("--workers=1"), PipelineOptions([])), FnApiRunner)
    assert make_runner(config("--runner=FlinkRunner"), PipelineOptions([])) == "FlinkRunner"


def test_several_workers_are_forked_and_get_the_options():
    made = make_runner(config("--workers=2"), PipelineOptions(["--s3_region_name=here"]))
    assert isinstance(made._default_environment, ForkedEnvironment)
    info = made._provision_info.provision_info
    assert "here" in str(info.pipeline_options)


@pytest.fixture
def quiet_end():
    """What an interrupt silences is heard again after the test."""
    hook = threading.excepthook
    yield
    logging.disable(logging.NOTSET)
    threading.excepthook = hook


def die(message):
    raise RuntimeError(message)


@pytest.mark.usefixtures("quiet_end")
def test_an_interrupt_inside_a_stage_stays_one():
    """Beam turns it into a RuntimeError of the stage."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            die("KeyboardInterrupt [while running 'Decode']")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("quiet_end")
def test_a_worker_s_death_ends_the_run_though_others_go_on():
    others_done = threading.Event()
    with pytest.raises(CatalogError, match="a worker process died.*return code -9"), Interrupts():
        threading.Thread(
            target=die, args=("Worker subprocess exited with return code -9",), name="run_worker"
        ).start()
        others_done.wait(timeout=60)
        pytest.fail("the run went on")


def test_a_run_that_ends_well_leaves_no_trace():
    handler, hook = signal.getsignal(signal.SIGINT), threading.excepthook
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert (signal.getsignal(signal.SIGINT), threading.excepthook) == (handler, hook)


@pytest.mark.usefixtures("quiet_end")
def test_another_error_passes_through_and_workers_that_end_of_it_change_nothing():
    with pytest.raises(ZeroDivisionError), Interrupts():
        raise ZeroDivisionError
    assert logging.root.manager.disable == logging.NOTSET
    late = threading.Thread(target=die, args=("Worker subprocess exited",), name="run_worker")
    late.start()
    late.join()  # a SIGINT would come up here
