"""The stage as a PTransform: what goes where, and how much memory it takes."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
import resource
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
import soundfile as sf
from apache_beam.testing.util import assert_that, equal_to

from tests.audio_files import noise, write_soundfile
from tests.enhanced import make_16khz_enhancer
from tests.rows import PROVENANCE
from transforms import Enhance
from transforms.audio.sandbox import DecoderLimits, Sandbox
from transforms.enhance import EnhancedTrack, _EnhanceFn, enhanced_rows
from transforms.enhance_file import EnhanceSettings, Workplace, enhance_file
from transforms.errors import Reason, WorkerError
from transforms.fetch import fetched
from transforms.journal import commit_segment
from transforms.models.checkpoint import fingerprint_of
from transforms.models.enhancer import SpectrumFrontEnd
from transforms.models.vit import use_threads
from transforms.records import LISTING_COLUMN, Listing, Track, journal_schema
from transforms.results import ENHANCED
from transforms.stopwatch import StopWatch
from transforms.storage.dataset import Target
from transforms.storage.known import KnownRows, load_known
from transforms.storage.publish import publish

NONE = EnhanceSettings(method="none")
LONG_SECONDS, LONG_RATE_HZ = 3_600, 8_000


@pytest.fixture
def music(tmp_path) -> Path:
    """Two recordings, one of them under two names, and a text."""
    for seed, name in enumerate(("a.wav", "b.wav")):
        write_soundfile(tmp_path / name, noise(0.5, 8_000, 2, seed), 8_000, "WAV", "PCM_16")
    (tmp_path / "copy of a.wav").write_bytes((tmp_path / "a.wav").read_bytes())
    (tmp_path / "text.mp3").write_text("no music " * 100)
    return tmp_path


def tracks(music: Path) -> list[Track]:
    copy = Track(str(music / "copy of a.wav"))
    two = (Listing("1", {"year": 1960}), Listing("2", {"year": 1961}))
    return [
        Track(str(music / "a.wav"), listings=two, copies=(copy,)),
        Track(str(music / "b.wav")),
        Track(str(music / "text.mp3")),
        Track(str(music / "missing.mp3")),
    ]


def name(uri: str) -> str:
    return uri.rpartition("/")[2]


def test_each_content_is_enhanced_once_and_each_failure_told(music):
    output = str(music / "out")
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(tracks(music)) | Enhance(NONE, output)
        members = found["rows"] | beam.Map(lambda e: tuple(name(t.uri) for t in e.track.members))
        failed = found["failures"] | beam.Map(lambda f: (name(f.track.uri), f.stage, f.reason))
        assert_that(members, equal_to([("a.wav", "copy of a.wav"), ("b.wav",)]), "members")
        assert_that(
            failed,
            equal_to([("text.mp3", "Enhance", Reason.NOT_AUDIO),
                      ("missing.mp3", "Enhance", Reason.NOT_FOUND)]),
            "failures",
        )  # fmt: skip
        assert_that(found["known"], equal_to([]), "known")
    assert len(list(music.rglob("*.flac"))) == 2


def enhanced(music: Path, track: Track) -> EnhancedTrack:
    with Sandbox() as sandbox, fetched(track.uri) as source:
        workplace = Workplace(str(music / "out"), None, sandbox, StopWatch())
        return EnhancedTrack(track, enhance_file(track.uri, source, NONE, workplace))


def test_each_listing_of_each_file_has_a_row(music):
    rows = enhanced_rows(enhanced(music, tracks(music)[0]), PROVENANCE)
    assert [(name(row["uri"]), row["track_id"], row.get("year")) for row in rows] == [
        ("a.wav", "1", 1960), ("a.wav", "2", 1961), ("copy of a.wav", None, None),
    ]  # fmt: skip
    assert [row[LISTING_COLUMN] for row in rows] == [0, 1, 0]
    assert {row["output"] for row in rows} == {rows[0]["output"]}
    assert rows[0]["run_id"] == PROVENANCE.run_id


def test_what_earlier_runs_have_done_is_known(music):
    """A file with a row is skipped, another file of the same bytes is handed on as known."""
    made = tracks(music)
    alone = dataclasses.replace(made[0], copies=())
    schema = ENHANCED.schema()
    journal = str(music / "out" / "journal" / "run-1")
    rows = enhanced_rows(enhanced(music, alone), PROVENANCE)
    path = commit_segment(journal, "tracks", rows, journal_schema(schema))
    counts = publish([path], Target(str(music / "out"), "run-1"), schema)
    assert counts == {("enhanced", "none"): 2}
    known = KnownRows(str(music / "out"), "run-2", PROVENANCE.model_fingerprint,
                      PROVENANCE.front_end_fingerprint, results=ENHANCED)  # fmt: skip
    load_known.cache_clear()
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        found = pipeline | beam.Create(made[:2]) | Enhance(NONE, str(music / "out"), known=known)
        members = found["rows"] | beam.Map(lambda e: name(e.track.uri))
        copies = found["known"] | beam.Map(lambda content: name(content.track.uri))
        assert_that(members, equal_to(["b.wav"]), "members")
        assert_that(copies, equal_to(["copy of a.wav"]), "copies")
        assert_that(found["counts"], equal_to([(("skipped", "enhanced"), 2)]), "counts")


def test_a_machine_without_the_model_stops_the_run(tmp_path):
    """It is no track's fault."""
    settings = EnhanceSettings(
        model=str(tmp_path / "nothing"), model_fingerprint="f" * 16, front_end=SpectrumFrontEnd()
    )
    do_fn = _EnhanceFn(settings, str(tmp_path), None, DecoderLimits(), None)
    with pytest.raises(WorkerError, match="all machines of a cluster need the same model"):
        pickle.loads(pickle.dumps(do_fn)).setup()


def peak_mib(settings: EnhanceSettings, path: str, output: str) -> int:
    """In a process of its own: its peak of memory, MiB."""
    use_threads(1)
    with Sandbox() as sandbox, fetched(path) as source:
        workplace = Workplace(output, None, sandbox, StopWatch())
        facts = enhance_file(path, source, settings, workplace)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sf.info(facts["output"]).frames == round(facts["duration_s"] * LONG_RATE_HZ)
    return peak >> (20 if sys.platform == "darwin" else 10)


def write_long(path: Path, seconds: int) -> Path:
    """Noise, in pieces: it never lies in memory as a whole."""
    block = (3_000 * np.random.default_rng(0).standard_normal(10 * LONG_RATE_HZ)).astype(np.int16)
    with sf.SoundFile(path, "w", LONG_RATE_HZ, 1, "PCM_16", format="WAV") as file:
        for _ in range(seconds // 10):
            file.write(block)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "model"])
def test_an_hour_takes_no_more_memory_than_two_minutes(tmp_path, method):
    """As float32 the hour is 110 MiB."""
    settings = NONE
    if method == "model":
        folder = make_16khz_enhancer(tmp_path / "model")
        settings = EnhanceSettings(
            model=str(folder), model_fingerprint=fingerprint_of(folder),
            front_end=SpectrumFrontEnd(),
        )  # fmt: skip
    peaks = []
    for seconds in (120, LONG_SECONDS):
        path = write_long(tmp_path / f"{seconds}.wav", seconds)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks.append(pool.apply(peak_mib, (settings, str(path), str(tmp_path / "out"))))
    assert peaks[1] < peaks[0] + 30
