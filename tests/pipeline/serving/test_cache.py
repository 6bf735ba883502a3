"""The cache: what it keeps, what never meets, and every way in which a disk fails."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.serving.answers import Labelled
from pipeline.serving.cache import Key, ResultCache, content_fields
from pipeline.serving.shelf import ASIDE, FILE, Entry, Shelf, _begin
from transforms.records import PredictionRow, WindowRow

KEY = Key("a" * 64, "model", "front end", "features")
PNG = b"\x89PNG" + bytes(range(256))


def result(label: str = "jazz", picture: bytes | None = None, **columns: Any) -> Labelled:
    prediction = {"label": label, "scores": [0.25, 0.75], "embedding": None} | columns
    return Labelled(prediction, [{"window_index": 0, "label": label}], picture, False)


def told(found: Labelled | None) -> str | None:
    return None if found is None else found.prediction["label"]


def test_what_depends_on_the_request_is_left_out():
    now = dt.datetime.now(dt.timezone.utc)
    asked = {
        "uri": "a.wav", "track_id": "7", "modified_at": now, "run_id": "r", "labelled_at": now,
    }  # fmt: skip
    assert content_fields({**asked, "label": "jazz", "scores": [1.0]}) == {
        "label": "jazz",
        "scores": [1.0],
    }
    timestamps = {"modified_at", "labelled_at"}
    for row in (PredictionRow, WindowRow):
        names = [field.name for field in dataclasses.fields(row)]
        kept = content_fields(dict.fromkeys(names))
        assert set(names) - set(kept) == set(names) & {"uri", "track_id", "run_id", *timestamps}


@settings(max_examples=25, deadline=None)
@given(scores=st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_scores_survive_to_the_bit(tmp_path_factory, scores):
    folder = tmp_path_factory.mktemp("cache")
    kept = np.array(scores, np.float32)
    for memory_bytes in (0, 1 << 20):
        cache = ResultCache(folder, memory_bytes)
        cache.put(KEY, result(scores=kept.tolist(), uri="a.wav"))
        found = cache.get(KEY)
        cache.close()
        assert found is not None
        assert found.from_cache
        assert np.array(found.prediction["scores"], np.float32).tobytes() == kept.tobytes()
        assert "uri" not in found.prediction
        assert list(found.windows) == [{"window_index": 0, "label": "jazz"}]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Key)])
def test_another_model_front_end_or_version_never_meets_old_entries(
    tmp_path, memory_bytes, on_disk, field
):
    cache = ResultCache(tmp_path if on_disk else None, memory_bytes)
    cache.put(KEY, result())
    assert cache.get(dataclasses.replace(KEY, **{field: "other"})) is None
    assert (told(cache.get(KEY)) == "jazz") == (on_disk or memory_bytes > 0)
    cache.close()


def test_what_stands_where_in_a_key_counts():
    one, other = Key("a", "b", "c", "d"), Key("a", 'b", "c', "", "d")
    assert str(one) != str(other)
    assert str(Key("a", "b", "", "c")) != str(Key("a", "", "b", "c"))


def test_what_is_counted(tmp_path):
    cache = ResultCache(tmp_path)
    assert cache.get(KEY) is None
    cache.put(KEY, result())
    assert cache.get(KEY) is not None
    cache.close()
    again = ResultCache(tmp_path)
    assert [told(again.get(KEY)) for _ in range(3)] == ["jazz"] * 3
    assert (cache.hits_memory, cache.hits_disk, cache.misses) == (1, 0, 1)
    assert (again.hits_memory, again.hits_disk, again.misses) == (2, 1, 0)
    assert again.memory_bytes > 0
    assert again.disk_bytes > 0
    again.close()


@pytest.mark.parametrize(("on_disk", "memory_bytes"), [(True, 0), (True, 9_999), (False, 9_999)])
def test_pictures(tmp_path, on_disk, memory_bytes):
    cache = ResultCache(tmp_path if on_disk else None, memory_bytes)
    cache.put(KEY, result("first"))
    assert cache.get(KEY, picture=True) is None
    cache.put(KEY, result("second", PNG))
    cache.put(KEY, result("third"))  # without a picture: the one that is there is as good
    found = cache.get(KEY, picture=True)
    assert found is not None
    assert (told(found), found.picture) == ("third", PNG)
    bare = cache.get(KEY)
    assert bare is not None
    assert bare.picture is None
    cache.close()


def test_what_one_gets_another_cannot_change():
    cache = ResultCache(None)
    cache.put(KEY, result())
    first = cache.get(KEY)
    assert first is not None
    first.prediction["scores"].append(9.0)  # type: ignore[index]
    second = cache.get(KEY)
    assert second is not None
    assert second.prediction["scores"] == [0.25, 0.75]


@given(
    orders=st.lists(
        st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers(0, 400)), max_size=40
    )
)
def test_memory_keeps_what_was_used_last(orders):
    cache = ResultCache(None, 1_000)
    used: list[str] = []  # the least recently used first
    sizes: dict[str, int] = {}
    for name, is_put, padding in orders:
        key = dataclasses.replace(KEY, settings=name)
        if is_put:
            cache.put(key, result("x" * padding))
            # The rows as anybody would write them.
            rows = {"prediction": dict(result("x" * padding).prediction)}
            rows["windows"] = list(result("x" * padding).windows)
            sizes[name] = len(json.dumps(rows, separators=(",", ":")))
        elif (cache.get(key) is not None) != (name in used):
            raise AssertionError(name)
        if is_put or name in used:
            used = [*(other for other in used if other != name), name]
        while sum(sizes[other] for other in used) > 1_000:
            used.pop(0)
        assert cache.memory_bytes == sum(sizes[other] for other in used)


def entry(number: int, size: int = 20_000) -> Entry:
    return Entry(random.Random(number).randbytes(size), None)


def kept(shelf: Shelf, numbers: range) -> list[int]:
    """Which of them are there, looked up beside the shelf, so that none is used by it."""
    with sqlite3.connect(shelf._path) as database:
        names = {name for (name,) in database.execute("SELECT name FROM entries")}
    database.close()
    return [number for number in numbers if str(number) in names]


def test_the_file_keeps_its_bound_and_what_was_used_last_over_restarts(tmp_path):
    bound = 1 << 20
    chance = random.Random(5)
    used: list[int] = []
    for _ in range(4):
        shelf = Shelf(tmp_path, bound)
        for _ in range(60):
            number = chance.randrange(120)
            if shelf.get(str(number)) is None:
                shelf.put(str(number), entry(number, chance.randrange(1_000, 60_000)))
            used = [*(other for other in used if other != number), number]
            assert (tmp_path / FILE).stat().st_size <= bound
        assert shelf.used_bytes() > 0.8 * bound
        shelf.close()
        there = kept(shelf, range(120))
        assert sorted(there) == sorted(used[-len(there) :])
        assert not list(tmp_path.glob("*-wal"))


def test_a_smaller_bound_shrinks_the_file(tmp_path):
    shelf = Shelf(tmp_path, 4 << 20)
    for number in range(150):
        shelf.put(str(number), entry(number))
    shelf.close()
    assert (tmp_path / FILE).stat().st_size > 2 << 20
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.close()
    assert (tmp_path / FILE).stat().st_size <= 1 << 20
    there = kept(shelf, range(150))
    assert len(there) > 30
    assert there == list(range(150))[-len(there) :]


def test_what_is_used_in_memory_stays_on_disk(tmp_path):
    cache = ResultCache(tmp_path, disk_bytes=1 << 20)
    cache.put(KEY, result("often"))
    for number in range(100):
        assert told(cache.get(KEY)) == "often"
        cache.put(dataclasses.replace(KEY, settings=str(number)), result("x" * 20_000))
    assert cache.hits_memory == 100
    cache.close()
    again = ResultCache(tmp_path)
    assert told(again.get(KEY)) == "often"
    assert again.get(dataclasses.replace(KEY, settings="0")) is None
    again.close()


def test_one_entry_is_never_more_than_half_of_the_file(tmp_path):
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.put("1", entry(1))
    shelf.put("2", entry(2, 600_000))
    assert shelf.get("2") is None
    assert shelf.get("1") == entry(1)
    shelf.close()


WRITER = """
import sys
from pathlib import Path
from pipeline.serving.shelf import Shelf
from tests.pipeline.serving.test_cache import entry
shelf = Shelf(Path(sys.argv[1]), 2 << 20)
print("ready", flush=True)
for number in range(10 ** 9):
    shelf.put(str(number), entry(number, 40_000))
"""


@pytest.mark.fault
def test_a_kill_in_mid_write_leaves_a_sound_file(tmp_path):
    root = str(Path(__file__).parents[3])
    for round_ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.3 + 0.05 * round_)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        shelf = Shelf(tmp_path, 2 << 20)
        there = kept(shelf, range(100_000))
        assert there
        assert all(shelf.get(str(number)) == entry(number, 40_000) for number in there)
        with sqlite3.connect(tmp_path / FILE) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.close()
        shelf.close()
    assert not (tmp_path / ASIDE).exists()


def garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1_000)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def other_version(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()


def other_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE songs (name TEXT)")
    database.close()


def flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(entry(3).rows[100:120])
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.fault
@pytest.mark.parametrize("damage", [garbage, cut_off, other_version, other_program, flipped_bit])
def test_a_damaged_or_foreign_file_is_set_aside(tmp_path, caplog, damage):
    shelf = Shelf(tmp_path, 4 << 20)
    for number in range(50):
        shelf.put(str(number), entry(number))
    shelf.close()
    damage(tmp_path / FILE)
    caplog.clear()

    shelf = Shelf(tmp_path, 4 << 20)
    for number in range(50):
        assert shelf.get(str(number)) in (None, entry(number))
    assert "set aside" in caplog.text
    assert (tmp_path / ASIDE).exists()
    for number in range(50):
        shelf.put(str(number), entry(number))
    assert all(shelf.get(str(number)) == entry(number) for number in range(50))
    shelf.close()


@pytest.mark.fault
@pytest.mark.parametrize("damage", [garbage, other_program])
def test_a_foreign_file_that_cannot_be_set_aside(tmp_path, caplog, damage):
    Shelf(tmp_path, 4 << 20).close()
    (tmp_path / FILE).touch()
    damage(tmp_path / FILE)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / ASIDE / "not empty").mkdir(parents=True)  # no file takes its place
    cache = ResultCache(tmp_path)
    for _ in range(3):
        cache.put(KEY, result())
    assert told(cache.get(KEY)) == "jazz"
    assert (tmp_path / FILE).read_bytes() == content
    assert caplog.text.count("memory only") == 1
    cache.close()


@pytest.mark.fault
def test_damage_under_an_open_file(tmp_path, caplog):
    shelf, other = Shelf(tmp_path, 4 << 20), Shelf(tmp_path, 4 << 20)
    for number in range(50):
        shelf.put(str(number), entry(number))
    shelf.close()
    with sqlite3.connect(tmp_path / FILE) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.close()
    content = (tmp_path / FILE).read_bytes()
    with (tmp_path / FILE).open("r+b") as file:  # the same inode
        file.seek(4_096)
        file.write(b"\xa5" * (len(content) - 4_096))
    third = Shelf(tmp_path, 4 << 20)
    for asked in (other, third) * 2:
        for number in range(50):
            assert asked.get(str(number)) in (None, entry(number))
    assert caplog.text.count("is set aside") == 1
    other.put("1", entry(1))
    assert third.get("1") == entry(1)
    other.close()
    third.close()


@pytest.mark.fault
def test_a_full_disk(tmp_path, caplog):
    cache = ResultCache(tmp_path)
    cache.put(KEY, result("before"))
    assert cache._shelf is not None
    database = cache._shelf._database
    assert database is not None
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}").fetchone()  # SQLite's own SQLITE_FULL
    keys = [dataclasses.replace(KEY, settings=str(number)) for number in range(5)]
    for key in keys:
        cache.put(key, result("x" * 20_000))
    assert all(cache.get(key) is not None for key in keys)
    assert cache.hits_memory == 5
    assert told(cache.get(KEY)) == "before"
    assert "memory only" in caplog.text
    assert "full" in caplog.text
    database.execute("PRAGMA max_page_count = 1000000").fetchone()
    cache.put(keys[0], result("after"))
    cache.close()
    again = ResultCache(tmp_path)
    assert [told(again.get(key)) for key in (KEY, *keys[:2])] == ["before", "after", None]
    again.close()


@pytest.mark.fault
def test_a_folder_that_cannot_be(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = ResultCache(tmp_path / "file" / "cache")
    for _ in range(3):
        cache.put(KEY, result())
    assert told(cache.get(KEY)) == "jazz"
    assert cache.disk_bytes == 0
    assert caplog.text.count("memory only") == 1
    cache.close()


def test_a_closed_cache_answers_from_memory(tmp_path):
    cache = ResultCache(tmp_path)
    cache.put(KEY, result())
    cache.close()
    cache.close()
    assert told(cache.get(KEY)) == "jazz"


def test_threads_and_two_caches_over_one_folder(tmp_path):
    caches = [ResultCache(tmp_path, 20_000, 1 << 20) for _ in range(2)]
    wrong: list[object] = []

    def hammer(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(150):
            number = chance.randrange(60)
            key, label = dataclasses.replace(KEY, settings=str(number)), f"{number} " * 50 * number
            cache = chance.choice(caches)
            try:
                if chance.random() < 0.5:
                    cache.put(key, result(label))
                elif told(cache.get(key)) not in (None, label):
                    wrong.append(number)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(cache.hits_memory and cache.hits_disk for cache in caches)
    assert all(cache.memory_bytes <= 20_000 for cache in caches)
    assert (tmp_path / FILE).stat().st_size <= 1 << 20
    for cache in caches:
        cache.close()


def test_tables_that_another_process_made_a_moment_ago_are_taken(tmp_path):
    shelf = Shelf(tmp_path, 1 << 20)
    shelf.put("1", entry(1))
    assert shelf._database is not None
    _begin(shelf._database)  # as if it had looked before the other one made them
    assert shelf.get("1") == entry(1)
    shelf.close()


def test_processes_that_begin_at_once_share_one_file(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipeline.serving.shelf import Shelf, Entry\n"
        "shelf = Shelf(Path(sys.argv[1]), 1 << 20)\n"
        "shelf.put(sys.argv[2], Entry(b'rows', None)); shelf.close()"
    )
    root = str(Path(__file__).parents[3])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(number)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        for number in range(5)
    ]
    assert [process.wait(60) for process in started] == [0] * 5
    shelf = Shelf(tmp_path, 1 << 20)
    assert kept(shelf, range(5)) == list(range(5))
    shelf.close()
