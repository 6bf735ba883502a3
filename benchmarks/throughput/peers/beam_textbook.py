"""Peer: Beam's RunInference as its documentation shows it, everything at its default.

The runner is DirectRunner. Where the network allows it, that downloads and starts Prism; elsewhere
it falls back to the FnApiRunner in this process, with one worker. The option below takes the
fallback without trying the network, so that a run does not depend on it.

Beam's handler for Hugging Face models imports TensorFlow, so this one is PyTorch's, and loads the
model in one line.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import apache_beam as beam
import torch
from apache_beam.ml.inference.base import KeyedModelHandler, PredictionResult, RunInference
from apache_beam.ml.inference.pytorch_inference import PytorchModelHandlerTensor
from apache_beam.options.pipeline_options import PipelineOptions
from transformers import ViTForImageClassification

from benchmarks.throughput.peers.command import Scored, main
from benchmarks.throughput.peers.recipe import load_image


class ViTHandler(PytorchModelHandlerTensor):  # type: ignore[misc]
    def __init__(self, model: str) -> None:
        super().__init__()
        self._folder = model

    def load_model(self) -> ViTForImageClassification:
        return ViTForImageClassification.from_pretrained(self._folder).eval()


def decode(path: str) -> tuple[str, torch.Tensor]:
    return path, torch.from_numpy(load_image(path))


def to_json(keyed: tuple[str, PredictionResult]) -> str:
    path, result = keyed
    return json.dumps([path, result.inference["logits"].softmax(dim=-1).tolist()])


def label_tracks(paths: list[str], model: str, precision: str = "float32") -> Iterable[Scored]:
    options = PipelineOptions(["--runner=DirectRunner", "--allow_unsafe_triggers"])
    with tempfile.TemporaryDirectory() as folder:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create(paths)
                | beam.Reshuffle()
                | beam.Map(decode)
                | RunInference(KeyedModelHandler(ViTHandler(model)))
                | beam.Map(to_json)
                | beam.io.WriteToText(f"{folder}/scores")
            )
        shards = [path.read_text().splitlines() for path in Path(folder).glob("scores*")]
    return [json.loads(line) for shard in shards for line in shard]


if __name__ == "__main__":
    main(label_tracks)
