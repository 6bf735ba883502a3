"""The nightly DAG, in Airflow itself.

Airflow pins too much to share an environment with this project. To run these tests make one:

    python -m venv /tmp/airflow && /tmp/airflow/bin/pip install 'apache-airflow==3.1.*'
    AIRFLOW_PYTHON=/tmp/airflow/bin/python python -m pytest tests/deploy/test_nightly_labels.py

tests/deploy/test_commands.py reads the DAG's command line without Airflow.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.catalog import ROOT
from tests.deploy.commands import DAG
from tests.pipeline.shelf import write_track

AIRFLOW = os.environ.get("AIRFLOW_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(AIRFLOW is None, reason="no AIRFLOW_PYTHON: the interpreter of an Airflow"),
]
LOOK = """
import json, shutil, sys
try:
    from airflow.dag_processing.dagbag import DagBag
except ImportError:  # before Airflow 3.2
    from airflow.models.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1], include_examples=False)
(dag,) = bag.dags.values()
print(json.dumps({
    "errors": bag.import_errors, "id": dag.dag_id, "catchup": dag.catchup,
    "max_active_runs": dag.max_active_runs,
    "tasks": {t.task_id: [t.retries, sorted(t.downstream_task_ids)] for t in dag.tasks},
}))
"""
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import nightly_labels
from airflow.exceptions import AirflowException, AirflowFailException
operator = nightly_labels.LabelOperator(task_id="label", command=nightly_labels.COMMAND)
try:
    started = operator.execute({})
except AirflowFailException as error:
    sys.exit(f"failed for good: {error}")
except AirflowException as error:
    sys.exit(f"to be retried: {error}")
check = nightly_labels.nightly_labels().get_task("check").python_callable
try:
    print(check(started))
except AirflowFailException as error:
    sys.exit(f"checked: {error}")
"""


def in_airflow(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    dags = folder / "dags"
    dags.mkdir(exist_ok=True)
    (dags / DAG.name).write_text(DAG.read_text(encoding="utf-8"))
    variables = {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                 **environment}  # fmt: skip
    return subprocess.run(
        [str(AIRFLOW), "-W", "ignore", "-c", code, str(dags)], env=os.environ | variables,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_airflow_reads_it(tmp_path) -> None:
    done = in_airflow(LOOK, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "errors": {}, "id": "nightly_labels", "catchup": False, "max_active_runs": 1,
        "tasks": {"label": [3, ["check"]], "check": [0, []]},
    }  # fmt: skip


def test_it_labels_and_reads_the_books(tmp_path) -> None:
    """Its two tasks for real, one after the other, without Airflow's scheduler."""
    (tmp_path / "music").mkdir()
    write_track(tmp_path / "music" / "a.flac", 0)
    (tmp_path / "music" / "broken.mp3").write_text("no sound at all")
    ours = {
        "CATALOG_LABELS_PYTHON": sys.executable,
        "CATALOG_LABELS_INPUT": str(tmp_path / "music"),
        "CATALOG_LABELS_OUTPUT": str(tmp_path / "labels"),
        "PYTHONPATH": str(ROOT),
    }
    lenient = {"CATALOG_LABELS_OPTIONS": "--max_failure_rate=0.5 --workers=1"}
    done = in_airflow(RUN, tmp_path, **ours, **lenient)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = "{'listed': 2, 'labelled': 1, 'failed': 1, 'skipped': 0}"
    assert done.stdout.splitlines()[-1] == counts


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (1, "to be retried: pipeline.main failed"),
        (2, "failed for good: pipeline.main ended with status 2"),
        (3, "failed for good: pipeline.main ended with status 3"),
        (0, "checked: .* has no run since"),
    ],
)
def test_only_what_may_pass_is_tried_again(tmp_path, status, said) -> None:
    """With a stand-in for Python that labels nothing beside an old run."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {status}\n")
    program.chmod(0o755)
    runs = tmp_path / "labels" / "runs"
    runs.mkdir(parents=True)
    (runs / "20260101T000000Z-000000.json").write_text("{}")
    done = in_airflow(RUN, tmp_path, CATALOG_LABELS_PYTHON=str(program),
                      CATALOG_LABELS_OUTPUT=str(tmp_path / "labels"))  # fmt: skip
    assert done.returncode == 1
    assert re.match(said, done.stderr.splitlines()[-1])
