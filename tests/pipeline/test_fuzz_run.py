"""A catalog of nothing but damaged files: the run ends, and every one of them is accounted for."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.catalog import label
from tests.damage import damage, write_samples
from transforms.errors import Reason

pytestmark = pytest.mark.fuzz

CASES = 400
FIRST = 1_000_000  # other cases than the decoders' own test has


def test_damaged_catalog(tmp_path, tiny_checkpoint):
    formats, music = tmp_path / "formats", tmp_path / "music"
    formats.mkdir()
    music.mkdir()
    samples = [(path.name, path.read_bytes()) for path in sorted(write_samples(formats))]
    for seed in range(FIRST, FIRST + CASES):
        (music / f"{seed}.mp3").write_bytes(damage(samples, seed)[1])
    run = label(
        tmp_path / "labels",
        f"--model={tiny_checkpoint}",
        f"--input={music}",
        "--windows=all",
        "--max_seconds=60",
        "--progress=none",
    )
    assert run.status == 0, run.stderr
    uris = Counter(row["uri"] for name in ("predictions", "failures") for row in run.rows(name))
    assert uris == Counter(str(path) for path in music.iterdir())
    counts = run.record["counts"]
    assert counts["listed"] == CASES == counts["labelled"] + counts["failed"]
    assert counts["labelled"] > CASES / 4 and counts["failed"] > CASES / 20
    decoding = {Reason.NOT_AUDIO, Reason.CORRUPT, Reason.UNSUPPORTED_CODEC, Reason.TOO_SHORT,
                Reason.EMPTY_FILE}  # fmt: skip
    assert set(counts["failed_by_reason"]) <= {reason.value for reason in decoding}
