"""Files of the same bytes: labelled once, with rows for each of them, in one run and over many."""

from __future__ import annotations

import os
import shutil
from collections import Counter

from tests.catalog import Run, label_here
from tests.pipeline.shelf import WINDOWS, Shelf, counts, inferred, names, write_track
from transforms.storage.extras import EXTRAS


def add_copies(shelf: Shelf) -> list[str]:
    """Copies of a track, and one of the same size that is none."""
    (shelf.music / "deep").mkdir()
    copies = ["b.flac", "b copy.flac", "deep/b.flac", "deep/z.mp3"]
    for name in copies[1:]:
        shutil.copyfile(shelf.path("b.flac"), shelf.path(name))
    return copies


def test_copies_are_labelled_once_and_each_gets_its_rows(shelf, tmp_path):
    copies = add_copies(shelf)
    run = label_here(tmp_path / "new", f"--input={shelf.music}", f"--model={shelf.model}")
    assert counts(run) == {"listed": 7, "labelled": 6, "failed": 1, "skipped": 0}
    assert inferred(run) == sum(WINDOWS.values())
    assert run.record["stages"]["Decode"]["elements_in"] == 4
    for dataset, per_file in (("predictions", 1), ("windows", 2)):
        rows = {name: [] for name in copies}
        for row in run.rows(dataset):
            name = os.path.relpath(row["uri"], shelf.music)
            if name in rows:
                own = ("uri", "modified_at", "labelled_at")
                rows[name].append({key: value for key, value in row.items() if key not in own})
        assert [len(rows[name]) for name in copies] == [per_file] * 4
        assert all(rows[name] == rows["b.flac"] for name in copies)


def check_reused(shelf: Shelf, run: Run, names_of_copies: list[str]) -> None:
    """Rows of b.flac under other names and with their own run: nothing was inferred again."""
    assert inferred(run) == 0
    assert sorted(
        os.path.relpath(row["uri"], shelf.music) for row in run.newest["predictions"]
    ) == (sorted(names_of_copies))
    own = ("uri", "modified_at", "labelled_at", "run_id")
    for dataset in ("predictions", "windows"):
        old = [row for row in run.rows(dataset) if row["uri"] == str(shelf.path("b.flac"))]
        expected = [{k: v for k, v in row.items() if k not in own} for row in old]
        assert expected
        for name in names_of_copies:
            new = [row for row in run.newest[dataset] if row["uri"] == str(shelf.path(name))]
            assert [{k: v for k, v in row.items() if k not in own} for row in new] == expected
            modified_us = shelf.path(name).stat().st_mtime_ns // 1000
            for row in new if dataset == "predictions" else ():
                assert round(row["modified_at"].timestamp() * 1e6) == modified_us


def test_copies_of_a_known_file_get_its_rows_under_their_own_names(shelf):
    copies = add_copies(shelf)
    run = shelf.label()
    assert counts(run) == {"listed": 7, "labelled": 3, "failed": 1, "skipped": 3}
    check_reused(shelf, run, copies[1:])
    assert counts(shelf.label())["skipped"] == 6


def test_a_renamed_file_gets_its_rows_under_the_new_name(shelf):
    content = shelf.path("b.flac").read_bytes()
    shelf.path("renamed.flac").write_bytes(content)
    shelf.path("b.flac").unlink()
    run = shelf.label()
    assert counts(run) == {"listed": 4, "labelled": 1, "failed": 1, "skipped": 2}
    check_reused(shelf, run, ["renamed.flac"])


def test_copies_are_labelled_where_the_known_rows_have_no_embeddings(shelf):
    add_copies(shelf)
    run = shelf.label("--embeddings")
    assert counts(run) == {"listed": 7, "labelled": 6, "failed": 1, "skipped": 0}
    assert inferred(run) == sum(WINDOWS.values())
    assert all(len(row["embedding"]) == 32 for row in run.newest["predictions"])


def test_copies_have_features(shelf):
    run = shelf.label("--features")
    first = {os.path.basename(row["uri"]): row for row in run.newest["predictions"]}["b.flac"]
    copies = add_copies(shelf)
    run = shelf.label("--features")
    assert (inferred(run), counts(run)["labelled"]) == (0, 3)
    assert first["loudness_lufs"] is not None
    for row in run.newest["predictions"]:
        assert os.path.relpath(row["uri"], shelf.music) in copies[1:]
        assert {n: row[n] for n in EXTRAS["features"]} == {n: first[n] for n in EXTRAS["features"]}


def test_files_that_differ_in_one_byte_in_the_middle_are_no_copies(shelf, tmp_path):
    folder = tmp_path / "alike"
    folder.mkdir()
    content = bytearray(write_track(folder / "a.wav", 3, 20.0, "WAV").read_bytes())
    content[len(content) // 4] ^= 0x40  # away from where files are probed
    (folder / "b.wav").write_bytes(content)
    run = label_here(tmp_path / "new", f"--input={folder}", f"--model={shelf.model}")
    first, second = run.rows("predictions")
    assert first["size_bytes"] == second["size_bytes"]
    assert first["content_sha256"] != second["content_sha256"]
    assert inferred(run) == 20


def test_a_broken_file_and_its_copy_fail_both(shelf):
    shutil.copyfile(shelf.path("broken.mp3"), shelf.path("broken too.mp3"))
    run = shelf.label()
    assert names(run.newest["failures"]) == ["broken too.mp3", "broken.mp3"]
    assert Counter(row["reason"] for row in run.newest["failures"]) == {"not_audio": 2}
