"""The same output again: what is unchanged is skipped, what is new or has changed is labelled."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from tests.catalog import ROOT, Run, label_here
from tests.checkpoints import make_checkpoint, tiny_front_end
from tests.pipeline.shelf import WINDOWS, comparable, counts, inferred, names, write_track
from transforms.storage.extras import EXTRAS


def test_the_first_run_labels_everything(labelled_once):
    run = Run(labelled_once.output, 0, "", "")
    assert counts(run) == {"listed": 4, "labelled": 3, "failed": 1, "skipped": 0}
    assert inferred(run) == sum(WINDOWS.values())


def test_the_same_again_skips_all_and_writes_no_row(shelf, capsys):
    before = {path: path.read_bytes() for path in shelf.output.rglob("*.parquet")}
    run = shelf.label()
    assert counts(run) == {"listed": 4, "labelled": 0, "failed": 1, "skipped": 3}
    assert inferred(run) == 0
    assert [*run.newest["predictions"], *run.newest["windows"]] == []
    written = set(shelf.output.rglob("*.parquet")) - before.keys()
    assert {path.parent.name for path in written} == {"failures"}
    assert {path: path.read_bytes() for path in before} == before
    assert "3  skipped, unchanged since an earlier run" in capsys.readouterr().out


def test_what_failed_is_tried_again_by_a_new_run(shelf):
    write_track(shelf.path("broken.mp3"), 9)
    run = shelf.label()
    assert names(run.newest["predictions"]) == ["broken.mp3"]
    assert run.newest["failures"] == []


def test_a_catalog_without_failures_writes_no_dataset_at_all(shelf):
    shelf.path("broken.mp3").unlink()
    before = set(shelf.output.rglob("*.parquet"))
    assert counts(shelf.label()) == {"listed": 3, "labelled": 0, "failed": 0, "skipped": 3}
    assert set(shelf.output.rglob("*.parquet")) == before


def test_changed_bytes_are_labelled_beside_the_old_row(shelf):
    write_track(shelf.path("b.flac"), 7)
    run = shelf.label()
    assert counts(run)["skipped"] == 2
    assert names(run.newest["predictions"]) == ["b.flac"]
    old, new = (row for row in run.rows("predictions") if row["uri"].endswith("b.flac"))
    assert old["content_sha256"] != new["content_sha256"]
    assert old["scores"] != new["scores"]


def test_a_touched_file_of_the_same_bytes_is_read_but_not_labelled(shelf):
    os.utime(shelf.path("b.flac"), (1_000_000_000, 1_000_000_000))
    run = shelf.label()
    assert counts(run) == {"listed": 4, "labelled": 0, "failed": 1, "skipped": 3}
    assert run.record["stages"]["Decode"]["elements_in"] == 2  # and broken.mp3
    assert inferred(run) == 0


def test_other_bytes_of_the_same_size_and_time_show_only_by_content(shelf):
    path = shelf.path("b.flac")
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert counts(shelf.label())["skipped"] == 3
    run = shelf.label("--verify=content")
    assert counts(run)["skipped"] == 2
    assert names(run.newest["predictions"]) == ["b.flac"]


def test_a_new_file_is_labelled_alone(shelf):
    write_track(shelf.path("d.flac"), 8, seconds=3.0)
    run = shelf.label()
    assert counts(run) == {"listed": 5, "labelled": 1, "failed": 1, "skipped": 3}
    assert names(run.newest["predictions"]) == ["d.flac"]
    assert inferred(run) == 2


def test_a_removed_file_keeps_its_row_and_is_not_listed(shelf):
    shelf.path("a.flac").unlink()
    run = shelf.label()
    assert counts(run) == {"listed": 3, "labelled": 0, "failed": 1, "skipped": 2}
    assert names(run.rows("predictions")) == ["a.flac", "b.flac", "c.flac"]


def test_a_moved_file_is_a_new_one(shelf):
    shelf.path("a.flac").rename(shelf.path("z.flac"))
    assert names(shelf.label().newest["predictions"]) == ["z.flac"]


def test_another_model_labels_everything_beside_the_old_rows(shelf, tmp_path):
    other = make_checkpoint(tmp_path / "other", seed=1, front_end=tiny_front_end(),
                            unknown_threshold=0.3)  # fmt: skip
    run = shelf.label(f"--model={other}")
    assert counts(run) == {"listed": 4, "labelled": 3, "failed": 1, "skipped": 0}
    rows = run.rows("predictions")
    assert len(rows) == 6
    assert len({row["model_fingerprint"] for row in rows}) == 2
    # And each model knows its own.
    assert counts(shelf.label())["skipped"] == 3
    assert counts(shelf.label(f"--model={other}"))["skipped"] == 3


def test_another_front_end_labels_everything_beside_the_old_rows(shelf):
    run = shelf.label("--windows=middle")
    assert counts(run) == {"listed": 4, "labelled": 3, "failed": 1, "skipped": 0}
    assert len({row["front_end_fingerprint"] for row in run.rows("predictions")}) == 2
    assert [row["window_count"] for row in run.newest["predictions"]] == [1, 1, 1]


def test_embeddings_that_are_missing_are_made_once(shelf):
    run = shelf.label("--embeddings")
    assert counts(run)["labelled"] == 3
    assert all(len(row["embedding"]) == 32 for row in run.newest["predictions"])
    assert counts(shelf.label("--embeddings"))["skipped"] == 3
    assert counts(shelf.label())["skipped"] == 3  # more than was asked for is enough


def test_features_that_are_missing_are_made_once(shelf):
    before = Run(shelf.output, 0, "", "").rows("predictions")
    assert all(row[name] is None for row in before for name in EXTRAS["features"])
    run = shelf.label("--features")
    assert counts(run)["labelled"] == 3
    seconds = [row["features_seconds"] for row in run.newest["predictions"]]
    assert seconds == [row["duration_s"] for row in before]
    assert counts(shelf.label("--features"))["skipped"] == 3
    assert counts(shelf.label())["skipped"] == 3  # more than was asked for is enough
    assert counts(shelf.label("--features", "--embeddings"))["labelled"] == 3


def test_an_output_of_a_version_without_features_goes_on(shelf):
    (path,) = (shelf.output / "predictions").glob("*.parquet")
    pq.write_table(pq.read_table(path).drop_columns(EXTRAS["features"]), path)
    shutil.copyfile(shelf.path("b.flac"), shelf.path("b copy.flac"))
    run = shelf.label()
    assert counts(run) == {"listed": 5, "labelled": 1, "failed": 1, "skipped": 3}
    assert inferred(run) == 0
    assert names(run.newest["predictions"]) == ["b copy.flac"]
    assert counts(shelf.label("--features"))["labelled"] == 4


def test_relabel_labels_everything_to_the_same_rows(shelf):
    before = Run(shelf.output, 0, "", "").rows("predictions")
    run = shelf.label("--relabel")
    assert counts(run) == {"listed": 4, "labelled": 3, "failed": 1, "skipped": 0}
    assert comparable(run.newest["predictions"]) == comparable(before)
    assert len(run.rows("predictions")) == 6


def test_a_track_id_that_is_new_for_a_file_gets_its_row(shelf, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"uri,track_id\n{shelf.path('a.flac')},7\n{shelf.path('a.flac')},8\n")
    run = shelf.label(f"--input={manifest}")
    assert [row["track_id"] for row in run.newest["predictions"]] == ["7", "8"]
    assert names(run.newest["windows"]) == ["a.flac"]
    manifest.write_text(f"uri,track_id\n{shelf.path('a.flac')},8\n{shelf.path('a.flac')},9\n")
    run = shelf.label(f"--input={manifest}")
    assert [row["track_id"] for row in run.newest["predictions"]] == ["9"]
    assert counts(shelf.label())["skipped"] == 3  # a plain listing is content with any row


def test_json_lines_hold_the_run_s_own_rows(shelf):
    write_track(shelf.path("d.flac"), 8)
    run = shelf.label("--format=json")
    lines = (shelf.output / "json" / f"{run.record['run_id']}.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert '"label": ' in lines[0]


def latest_views(output: Path) -> duckdb.DuckDBPyConnection:
    """A connection with the views of docs/output.md."""
    connection = duckdb.connect()
    text = (ROOT / "docs/output.md").read_text(encoding="utf-8")
    views = re.findall(r"```sql\n(CREATE VIEW .*?)```", text, re.DOTALL)
    assert len(views) == 3
    for view in views:
        connection.execute(view.replace("OUTPUT", str(output)))
    return connection


def test_the_views_of_the_documentation_over_several_runs(shelf):
    write_track(shelf.path("b.flac"), 7, 5.0)  # three windows now
    shelf.path("too.mp3").write_text("no sound either")
    shelf.label()
    write_track(shelf.path("broken.mp3"), 9)
    shelf.label("--relabel")
    shelf.path("c.flac").unlink()
    run = shelf.label()
    with contextlib.closing(latest_views(shelf.output)) as views:
        latest = views.execute(
            "SELECT uri, run_id, window_count FROM latest ORDER BY uri"
        ).fetchall()
        windows = views.execute("SELECT uri, count(*) FROM latest_windows GROUP BY ALL").fetchall()
        failed = views.execute("SELECT uri, run_id FROM latest_failures").fetchall()
    relabelled = run.records[-2]["run_id"]
    assert [(Path(uri).name, run_id, count) for uri, run_id, count in latest] == [
        ("a.flac", relabelled, 1), ("b.flac", relabelled, 3), ("broken.mp3", relabelled, 2),
        ("c.flac", relabelled, 3),
    ]  # fmt: skip
    assert dict(windows) == {uri: count for uri, _, count in latest}
    assert failed == [(str(shelf.path("too.mp3")), run.record["run_id"])]


def test_bytes_that_come_back_are_the_newest_row_again(shelf):
    path, kept = shelf.path("b.flac"), shelf.output.parent / "kept"
    shutil.copy2(path, kept)
    first = shelf.label("--relabel")
    write_track(path, 9)
    shelf.label()
    shutil.copy2(kept, path)
    run = shelf.label()
    assert counts(run)["labelled"] == 1 and inferred(run) == 0
    (newest,) = run.newest["predictions"]
    (before,) = [row for row in first.newest["predictions"] if row["uri"] == str(path)]
    assert comparable([newest]) == comparable([before])
    assert counts(shelf.label())["skipped"] == 3


def test_an_output_inside_the_input_is_no_input(shelf):
    output = shelf.music / "labels"
    for _ in range(2):
        run = label_here(output, f"--input={shelf.music}", f"--model={shelf.model}")
        assert run.record["counts"]["listed"] == 4
