"""A DAG for Airflow 3: label every night what is new or has changed, then look at the books.

Copy it into the DAGs folder. Airflow's workers need this project in an environment of its own, as
its pins clash with Airflow's, and these environment variables:

CATALOG_LABELS_PYTHON
    Interpreter of that environment (default: /opt/catalog-labels/bin/python).
CATALOG_LABELS_INPUT, CATALOG_LABELS_OUTPUT
    Folder, glob or manifest, and where the labels go (default: /data/music, /data/labels). For a
    bucket Airflow needs its file system as well, apache-airflow-providers-amazon[s3fs] for s3://.
CATALOG_LABELS_OPTIONS
    More options of pipeline.main, as a shell would read them: --runner=FlinkRunner
    --flink_master=HOST:PORT, for example. Without, the worker's own machine labels.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shlex
from typing import Any

from airflow.exceptions import AirflowException, AirflowFailException
from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, ObjectStoragePath, dag, task

PYTHON = os.environ.get("CATALOG_LABELS_PYTHON", "/opt/catalog-labels/bin/python")
INPUT = os.environ.get("CATALOG_LABELS_INPUT", "/data/music")
OUTPUT = os.environ.get("CATALOG_LABELS_OUTPUT", "/data/labels")
COMMAND = [
    PYTHON, "-m", "pipeline.main", f"--input={INPUT}", f"--output={OUTPUT}",
    "--max_failure_rate=0.05", "--progress=lines",
    *shlex.split(os.environ.get("CATALOG_LABELS_OPTIONS", "")),
]  # fmt: skip
MAY_PASS = 1  # storage that fails, a cluster that is lost: pipeline.main's exit status


class LabelOperator(BaseOperator):
    """Runs pipeline.main; what it prints is the task's log.

    Parameters
    ----------
    command : list of str
    """

    def __init__(self, *, command: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.hook = SubprocessHook()

    def execute(self, context: Any) -> str:
        """Run the command; returns the moment before, written as run ids begin."""
        before = f"{dt.datetime.now(dt.timezone.utc):%Y%m%dT%H%M%SZ}"
        status = self.hook.run_command(self.command).exit_code
        if status == MAY_PASS:
            raise AirflowException("pipeline.main failed; the next try goes on from its journal")
        if status != 0:
            # 2, a wrong call, stays one. 3, too many failures: the same files fail again. Killed by
            # a signal, mostly for memory: somebody should have a look.
            raise AirflowFailException(f"pipeline.main ended with status {status}: no other try")
        return before

    def on_kill(self) -> None:
        """Cancelled in Airflow: the run cancels its job, and keeps what is finished."""
        self.hook.send_sigterm()


@dag(
    schedule="0 2 * * *",
    start_date=dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc),
    catchup=False,  # one run labels whatever has gathered
    max_active_runs=1,  # one run at a time may write into an output
    tags=["catalog-labels"],
    doc_md=__doc__,
)
def nightly_labels() -> None:
    """Label, then check."""
    label = LabelOperator(
        task_id="label",
        command=COMMAND,
        retries=3,
        retry_delay=dt.timedelta(minutes=5),  # longer than a dead run's lock on a bucket holds
        do_xcom_push=True,
    )

    @task(retries=0)
    def check(started: str) -> dict[str, int]:
        """Read the record of the run that has just ended; returns its counts."""
        runs = ObjectStoragePath(f"{OUTPUT}/runs")
        newest = max((path for path in runs.iterdir() if path.suffix == ".json"), key=str)
        if newest.stem < started:
            raise AirflowFailException(f"{runs} has no run since {started}, only {newest.stem}")
        record = json.loads(newest.read_text())
        counts = record["counts"]
        if record["status"] != "done":
            raise AirflowFailException(f"{newest}: status {record['status']}")
        if counts["listed"] == 0:
            raise AirflowFailException(f"{newest}: no input was found")
        return {name: counts[name] for name in ("listed", "labelled", "failed", "skipped")}

    check(label.output)


nightly_labels()
