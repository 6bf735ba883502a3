"""What crosses a shuffle is small, whatever the tracks are: names and counts, never audio."""

from __future__ import annotations

import apache_beam as beam
import pytest
from apache_beam.metrics import Metrics
from apache_beam.pipeline import PipelineVisitor

from pipeline.graph import build_pipeline
from pipeline.job import prepare
from pipeline.options import parse_options
from pipeline.runner import beam_options, make_runner
from tests.audio_files import noise, write_soundfile

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


@pytest.fixture(scope="module")
def largest(tiny_checkpoint, tmp_path_factory):
    """Bytes of the largest element in front of each shuffle, of a run over long tracks."""
    music = tmp_path_factory.mktemp("music")
    for number in range(3):
        write_soundfile(music / f"{number}.flac", noise(60.0, 44_100, 2, number), 44_100, "FLAC",
                        "PCM_16")  # fmt: skip
    (music / "copy.flac").write_bytes((music / "0.flac").read_bytes())
    (music / "text.mp3").write_text("no music")
    given = [f"--input={music}", f"--output={tmp_path_factory.mktemp('out')}", "--workers=1",
             f"--model={tiny_checkpoint}", "--embeddings", "--window_seconds=30"]  # fmt: skip
    config = parse_options(given)
    options = beam_options(config)
    pipeline = beam.Pipeline(runner=make_runner(config, options), options=options)
    build_pipeline(pipeline, prepare(config))
    found = _Inputs()
    pipeline.visit(found)
    for name, pcollection in {**found.shuffled, "windows": found.windows}.items():
        measured(pcollection, name)
    result = pipeline.run()
    result.wait_until_finish()
    spread = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))
    return {item.key.metric.name: item.result.max for item in spread["distributions"]}


def test_a_window_of_audio_would_be_seen(largest):
    """30 s of 44,100 float32 samples: the measure tells what must not cross a shuffle."""
    assert largest["windows"] > 30 * 44_100 * 4 > LARGEST_BYTES


def test_nothing_large_crosses_a_shuffle(largest):
    shuffles = {name: size for name, size in largest.items() if name != "windows"}
    assert {"ReadFiles/ByUri", "ReadFiles/BySize"} <= shuffles.keys()
    assert any("Spread" in name for name in shuffles)
    assert max(shuffles.values()) < LARGEST_BYTES, shuffles
