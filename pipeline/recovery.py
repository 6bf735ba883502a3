"""Runs that did not come to their end: their finished tracks are published, and gone on from."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.run_record import write_json
from transforms.books import FAILED, to_books
from transforms.errors import StorageError
from transforms.manifest import is_local
from transforms.results import RESULTS_KEY, results_named
from transforms.storage.dataset import Target
from transforms.storage.durable import delete_tree, read_file
from transforms.storage.publish import publish_journal
from transforms.storage.retry import retried

DONE, RECOVERED = "done", "recovered"


_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")


def recover(output: str, *, json_lines: bool) -> tuple[str, ...]:
    """Publish the journals that earlier runs left.

    To be called under the output's lock. May itself be interrupted and repeated. The journals stay
    until :func:`forget` is told that the next run's record names the runs that it goes on with.

    Parameters
    ----------
    output : str
    json_lines : bool
        Whether the predictions go to OUTPUT/json as well; they do where the earlier run said so.

    Returns
    -------
    tuple of str
        The runs that the next one goes on with: these, and those that they went on with.

    Raises
    ------
    StorageError
        If something cannot be written.
    """
    resumed: list[str] = []
    for run_id in unfinished_runs(output):
        record_path = f"{output}/runs/{run_id}.json"
        record = _read_record(record_path)
        if record.get("status") not in (DONE, RECOVERED):
            asked = record.get("config", {}).get("format") == "json"
            target = Target(output, run_id, json_lines or asked)
            counts = publish_journal(f"{output}/journal/{run_id}", target)
            done = next((outcome for outcome, _ in counts if outcome != FAILED), None)
            results = results_named(done or record.get(RESULTS_KEY))
            told = to_books(counts.items(), results.done).told(results)
            record |= {
                "run_id": run_id,
                "status": RECOVERED,
                "counts": {n: told[n] for n in told if "listed" not in n and "skipped" not in n},
            }
            write_json(record_path, record)
        if record["status"] == RECOVERED:
            resumed += [run_id, *record.get("resumed_runs", ())]
    return tuple(dict.fromkeys(resumed))


def forget(output: str, but: str) -> None:
    """Remove all journals but that of one run; what cannot be removed only costs room."""
    for run_id in unfinished_runs(output):
        if run_id != but:
            remove_journal(f"{output}/journal/{run_id}")


def remove_journal(folder: str) -> None:
    """Remove a journal whose rows are published."""
    try:
        delete_tree(folder)
    except StorageError as error:
        print(f"a journal that is not needed any more is left: {error}", file=sys.stderr)


def unfinished_runs(output: str) -> list[str]:
    """Ids of the runs whose journals lie under an output folder, oldest first."""
    folder = f"{output}/journal"
    if is_local(folder):
        names = {path.name for path in Path(folder).glob("*") if path.is_dir()}
    else:
        (found,) = retried(folder, lambda: FileSystems.match([f"{folder}/**"]))
        inside = (metadata.path.removeprefix(f"{folder}/") for metadata in found.metadata_list)
        names = {path.partition("/")[0] for path in inside if "/" in path}
    return sorted(name for name in names if _RUN_ID.fullmatch(name))  # others are not ours


def _read_record(path: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(read_file(path))
    except FileNotFoundError:  # killed before it was written
        return {}
    return record
