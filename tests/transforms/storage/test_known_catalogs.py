"""Listing, merging, labelling and listing again, over random catalogs."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rows import PROVENANCE, failed_rows, labelled_rows, published
from transforms.mentions import list_mentions, merge, unknown_part
from transforms.records import Track
from transforms.storage.known import KnownRows, load_known

NEXT = KnownRows("", "run-2", PROVENANCE.model_fingerprint, PROVENANCE.front_end_fingerprint)
NAMES = st.sampled_from([f"{stem}.{kind}" for stem in "abcdé" for kind in ("mp3", "flac")])
SECONDS = st.integers(1, 2_000_000_000)
CATALOGS = st.dictionaries(
    NAMES, st.tuples(st.binary(max_size=3), SECONDS, st.integers(0, 999_999)), min_size=1
)
CHANGES = st.dictionaries(NAMES, st.sampled_from(["longer", "later", "earlier", "rewritten"]))


def write_catalog(folder, catalog) -> None:
    for name, (content, seconds, micros) in catalog.items():
        (folder / name).write_bytes(content)
        when = seconds * 10**9 + micros * 1_000
        os.utime(folder / name, ns=(when, when))


def change(path: Path, how: str) -> None:
    status = path.stat()
    content, when = path.read_bytes(), status.st_mtime_ns
    path.write_bytes(content + b"x" if how == "longer" else content)
    step = {"later": 1_000, "earlier": -1_000}.get(how, 0)  # a microsecond
    os.utime(path, ns=(when + step, when + step))


def tracks_of(folder) -> dict[str, Track]:
    """The tracks of a folder and a glob that repeats a part of it."""
    by_uri: dict[str, list] = {}
    for path in (str(folder), f"{folder}/*.mp3"):
        for mention in list_mentions(path, None):
            by_uri.setdefault(mention.uri, []).append(mention)
    return {os.path.basename(uri): merge(uri, mentions) for uri, mentions in by_uri.items()}


@settings(max_examples=100, deadline=None)
@given(catalog=CATALOGS, labelled=st.sets(NAMES), failed=st.sets(NAMES), changes=CHANGES)
def test_a_second_run_touches_what_is_new_changed_or_failed(
    tmp_path_factory, catalog, labelled, failed, changes
):
    root = tmp_path_factory.mktemp("catalog")
    folder = root / "music"
    folder.mkdir()
    write_catalog(folder, catalog)
    tracks = tracks_of(folder)
    assert set(tracks) == set(catalog)
    rows = []
    for name, one in tracks.items():
        if name in labelled:
            rows += [row | {"size_bytes": one.size_bytes} for row in labelled_rows(one)]
        elif name in failed:
            rows += failed_rows(one)
    published(root / "out", rows)
    for name, how in changes.items():
        if name in catalog:
            change(folder / name, how)
    touched = {name for name, how in changes.items() if how != "rewritten"}
    done = {"labelled": labelled - touched, "failed": failed - labelled - touched}
    for resumed in ((), ("run-1",)):
        load_known.cache_clear()
        rows = load_known(dataclasses.replace(NEXT, output=f"{root}/out", resumed_runs=resumed))
        for name, one in tracks_of(folder).items():
            left, skipped = unknown_part(one, rows)
            expected = [
                outcome
                for outcome in ("labelled", *(["failed"] if resumed else []))
                if name in done[outcome]
            ]
            assert list(skipped) == expected
            assert (left is None) == bool(expected)
            assert left in (None, one)
