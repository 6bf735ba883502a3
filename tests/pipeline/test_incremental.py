"""The same output again: what is unchanged is skipped, what is new or has changed is labelled."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.audio_files import noise, sine, write_soundfile
from tests.catalog import Run, label_here
from tests.checkpoints import make_checkpoint, tiny_front_end

RATE_HZ = 22_050
SECONDS = {"a": 1.0, "b": 3.0, "c": 5.0}  # one, two and three windows
WINDOWS = {"a": 1, "b": 2, "c": 3}
OF_A_ROW = ("uri", "track_id", "content_sha256", "label", "scores", "window_count")


def write_track(path: Path, seed: int, seconds: float = 3.0, kind: str = "FLAC") -> Path:
    sound = sine(seconds, RATE_HZ, 1, 150.0 * (seed + 1)) + noise(seconds, RATE_HZ, 1, seed)
    return write_soundfile(path, sound, RATE_HZ, kind, "PCM_16")


@dataclass
class Shelf:
    """A folder of music, and an output that has been labelled once."""

    music: Path
    output: Path
    model: Path

    def path(self, name: str) -> Path:
        return self.music / name

    def label(self, *options: str) -> Run:
        run = label_here(self.output, f"--input={self.music}", f"--model={self.model}",
                         "--precision=float32", *options)  # fmt: skip
        assert run.status == 0
        return run


@pytest.fixture(scope="module")
def labelled_once(tmp_path_factory, tiny_checkpoint) -> Shelf:
    folder = tmp_path_factory.mktemp("shelf")
    shelf = Shelf(folder / "music", folder / "out", tiny_checkpoint)
    shelf.music.mkdir()
    for seed, (name, seconds) in enumerate(SECONDS.items()):
        write_track(shelf.path(f"{name}.flac"), seed, seconds)
    shelf.path("broken.mp3").write_text("no sound at all")
    shelf.label()
    return shelf


@pytest.fixture
def shelf(labelled_once, tmp_path, tiny_checkpoint) -> Shelf:
    """A copy of it in the same place: uris are absolute."""
    kept = tmp_path / "kept"
    shutil.copytree(labelled_once.output.parent, kept, copy_function=shutil.copy2)
    yield labelled_once
    shutil.rmtree(labelled_once.output.parent)
    shutil.copytree(kept, labelled_once.output.parent, copy_function=shutil.copy2)


def names(rows) -> list[str]:
    return [Path(row["uri"]).name for row in rows]


def counts(run: Run) -> dict[str, int]:
    return {key: run.record["counts"][key] for key in ("listed", "labelled", "failed", "skipped")}


def inferred(run: Run) -> int:
    """Windows that went to the model."""
    return run.record["stages"].get("RunInference", {}).get("elements_in", 0)


def comparable(rows) -> list[dict]:
    return [{name: row[name] for name in OF_A_ROW} for row in rows]


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
    assert sorted(os.path.relpath(row["uri"], shelf.music) for row in run.newest["predictions"]) == (
        sorted(names_of_copies)
    )
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


def test_json_lines_hold_the_run_s_own_rows(shelf):
    write_track(shelf.path("d.flac"), 8)
    run = shelf.label("--format=json")
    lines = (shelf.output / "json" / f"{run.record['run_id']}.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert '"label": ' in lines[0]
