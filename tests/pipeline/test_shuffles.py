"""What crosses a shuffle is small, whatever the tracks are: names and counts, never audio."""

from __future__ import annotations

import itertools

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.pipeline import PipelineVisitor

from pipeline.graph import build_pipeline
from pipeline.job import prepare
from pipeline.options import parse_options
from pipeline.runner import beam_options, make_runner
from tests.audio_files import noise, write_soundfile
from transforms import preprocess
from transforms.errors import Reason, StageError

LARGEST_BYTES = 1_000_000
NAMESPACE = "test_shuffles"


class _Inputs(PipelineVisitor):
    """What goes into a shuffle, by the shuffle's name; and all windows that Decode cuts."""

    def __init__(self):
        self.shuffled = {}
        self.windows = None

    def visit_transform(self, node):
        if isinstance(node.transform, beam.GroupByKey):
            (self.shuffled[node.full_label],) = node.inputs

    def enter_composite_transform(self, node):
        if isinstance(node.transform, beam.GroupByKey):  # a composite to some runners
            (self.shuffled[node.full_label],) = node.inputs
        if node.full_label == "Preprocess":
            (self.windows,) = node.inputs


class _Measure(beam.DoFn):
    def __init__(self, name, coder):
        self._coder = coder
        self._bytes = Metrics.distribution(NAMESPACE, name)

    def process(self, element):
        self._bytes.update(len(self._coder.encode(element)))


def measured(pcollection, name):
    coder = beam.coders.registry.get_coder(pcollection.element_type)
    pcollection | f"Measure/{name}" >> beam.ParDo(_Measure(name, coder))


def sizes(folder, model, *options):
    """The distribution of bytes of the elements in front of each shuffle, of a run on a folder."""
    given = [f"--input={folder}", f"--output={folder}/out", "--workers=1", f"--model={model}",
             "--embeddings", *options]  # fmt: skip
    config = parse_options(given)
    beam_given = beam_options(config)
    pipeline = beam.Pipeline(runner=make_runner(config, beam_given), options=beam_given)
    build_pipeline(pipeline, prepare(config))
    found = _Inputs()
    pipeline.visit(found)
    for name, pcollection in {**found.shuffled, "windows": found.windows}.items():
        measured(pcollection, name)
    result = pipeline.run()
    result.wait_until_finish()
    spread = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))
    return {item.key.metric.name: item.result for item in spread["distributions"]}


@pytest.fixture(scope="module")
def long_windows(tiny_checkpoint, tmp_path_factory):
    music = tmp_path_factory.mktemp("music")
    for number in range(3):
        write_soundfile(music / f"{number}.flac", noise(60.0, 44_100, 2, number), 44_100, "FLAC",
                        "PCM_16")  # fmt: skip
    (music / "copy.flac").write_bytes((music / "0.flac").read_bytes())
    (music / "text.mp3").write_text("no music")
    return sizes(music, tiny_checkpoint, "--window_seconds=30")


@pytest.fixture(scope="module")
def many_windows(tiny_checkpoint, tmp_path_factory):
    """A window that fails leaves its track in parts, which meet behind a shuffle."""
    music = tmp_path_factory.mktemp("music")
    write_soundfile(music / "a.wav", noise(360.0, 8_000, 1, 0), 8_000, "WAV", "FLOAT")
    calls = itertools.count()

    def refuse_one(samples):
        if next(calls) == 100:
            raise StageError(Reason.INVALID_SAMPLES, "made up")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "check_samples", refuse_one)
        return sizes(music, tiny_checkpoint, "--window_seconds=0.2")


def test_a_window_of_audio_would_be_seen(long_windows):
    """30 s of 44,100 float32 samples: the measure tells what must not cross a shuffle."""
    assert long_windows["windows"].max > 30 * 44_100 * 4 > LARGEST_BYTES


def test_parts_of_a_long_track_would_be_seen(many_windows):
    assert many_windows["RollUp/ByUri"].sum > LARGEST_BYTES


@pytest.mark.parametrize("run", ["long_windows", "many_windows"])
def test_nothing_large_crosses_a_shuffle(run, request):
    found = request.getfixturevalue(run)
    largest = {name: spread.max for name, spread in found.items() if name != "windows"}
    assert {"ReadFiles/ByUri", "ReadFiles/BySize"} <= largest.keys()
    assert any("Spread" in name for name in largest)
    assert max(largest.values()) < LARGEST_BYTES, largest
