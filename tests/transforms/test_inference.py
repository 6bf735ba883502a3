from __future__ import annotations

import dataclasses
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from tests.checkpoints import make_recogniser
from tests.rows import FACTS
from tests.sequence_oracle import recognised
from transforms.errors import Reason, StageError
from transforms.inference import (
    RunInference,
    SequenceModelHandler,
    ViTModelHandler,
    check_image,
    make_handler,
    pad_batch,
)
from transforms.models.checkpoint import load_checkpoint
from transforms.models.sequence import CELLS
from transforms.records import LogMelWindow, Track


def window(image, index=0, uri="a.mp3") -> LogMelWindow:
    return LogMelWindow(Track(uri), index, 2.0 * index, 2.0 * index + 1.5, 1.25, image)


def windows(count, seed=0) -> list[LogMelWindow]:
    images = np.random.default_rng(seed).uniform(-1, 1, (count, 64, 64)).astype(np.float32)
    return [window(image, index) for index, image in enumerate(images)]


def vit_handler(folder, **changes) -> ViTModelHandler:
    settings = {"batch_size": 4, "device": "cpu", "precision": "float32", **changes}
    return ViTModelHandler(load_checkpoint(str(folder)), **settings)


@pytest.fixture(scope="module")
def handler(tiny_checkpoint):
    return vit_handler(tiny_checkpoint, embeddings=True)


@pytest.fixture(scope="module")
def model(handler):
    return handler.load_model()


def transformers_answer(folder, elements):
    """Log-probabilities and class token, each image alone, of transformers' forward pass."""
    vit = ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    found = []
    with torch.no_grad():
        for element in elements:
            pixels = torch.from_numpy(np.stack([element.image] * 3))[None]
            token = vit.vit(pixels).last_hidden_state[0, 0]
            logits = vit(pixels).logits[0]
            found.append((torch.log_softmax(logits, dim=-1).numpy(), token.numpy()))
    return found


# Batches


@pytest.mark.parametrize(("count", "size"), [(1, 1), (1, 4), (3, 4), (4, 4)])
def test_pad_batch(count, size):
    images = [element.image for element in windows(count)]
    batch = pad_batch(images, size)
    assert (batch.shape, batch.dtype) == ((size, 64, 64), np.float32)
    for row, image in enumerate(images):
        np.testing.assert_array_equal(batch[row], image)
    assert not batch[count:].any()


def test_every_call_of_the_model_has_one_shape(tiny_checkpoint):
    shapes = []

    class Spy:
        def predict(self, images, content_frames):
            shapes.append(images.shape)
            return real.predict(images, content_frames)

    handler = vit_handler(tiny_checkpoint)
    real = handler.load_model()
    for count in (1, 2, 3, 4):
        assert len(list(handler.run_inference(windows(count), Spy()))) == count
    assert shapes == [(4, 64, 64)] * 4
    assert handler.batch_elements_kwargs()["max_batch_size"] == 4


def test_predictions_are_transformers_own(handler, model, tiny_checkpoint):
    elements = windows(4)
    predictions = list(handler.run_inference(elements, model))
    expected = transformers_answer(tiny_checkpoint, elements)
    for element, prediction, (log_probs, token) in zip(
        elements, predictions, expected, strict=True
    ):
        np.testing.assert_allclose(prediction.log_probs, log_probs, atol=1e-5)
        np.testing.assert_allclose(prediction.embedding, token, atol=1e-5)
        assert prediction.window_index == element.window_index
        assert prediction.uri == "a.mp3"
        assert prediction.content_s == 1.25
        assert (prediction.start_s, prediction.end_s) == (element.start_s, element.end_s)


def test_facts_travel_on_the_window_that_has_them(handler, model):
    first, second = windows(2)
    second = dataclasses.replace(second, facts=FACTS)
    found = list(handler.run_inference([first, second], model))
    assert [prediction.facts for prediction in found] == [None, FACTS]


def test_predictions_do_not_hold_on_to_their_batch(handler, model):
    (prediction, *_) = handler.run_inference(windows(4), model)
    assert prediction.log_probs.base is None
    assert prediction.embedding.base is None


def test_no_embeddings_unless_asked_for(tiny_checkpoint, model):
    (prediction,) = vit_handler(tiny_checkpoint).run_inference(windows(1), model)
    assert prediction.embedding is None


# Invariance


def test_a_batch_of_one_and_of_sixteen(tiny_checkpoint, model):
    elements = windows(16)
    alone = vit_handler(tiny_checkpoint, batch_size=1)
    together = list(vit_handler(tiny_checkpoint, batch_size=16).run_inference(elements, model))
    for element, expected in zip(elements, together, strict=True):
        (prediction,) = alone.run_inference([element], model)
        np.testing.assert_allclose(prediction.log_probs, expected.log_probs, atol=1e-6)


@pytest.mark.parametrize("batch_size", [4, 8, 16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_neighbours_and_place_change_no_bit(tiny_checkpoint, batch_size, precision):
    handler = vit_handler(
        tiny_checkpoint, batch_size=batch_size, precision=precision, embeddings=True
    )
    model = handler.load_model()
    probe = window(windows(1, seed=9)[0].image, index=99)
    (expected,) = handler.run_inference([probe], model)
    for place in range(batch_size):
        for neighbours in (windows(batch_size, seed=1), windows(batch_size, seed=2)):
            batch = [*neighbours[:place], probe, *neighbours[place + 1 :]]
            prediction = list(handler.run_inference(batch, model))[place]
            assert prediction.window_index == 99
            np.testing.assert_array_equal(prediction.log_probs, expected.log_probs)
            np.testing.assert_array_equal(prediction.embedding, expected.embedding)


def test_order_of_the_windows_changes_no_bit(tiny_checkpoint):
    elements = windows(11)
    stage = RunInference(vit_handler(tiny_checkpoint))
    forward, backward = (
        {p.window_index: p.log_probs for p in (order | stage)["predictions"]}
        for order in (elements, elements[::-1])
    )
    assert sorted(forward) == sorted(backward) == list(range(11))
    for index in range(11):
        np.testing.assert_array_equal(forward[index], backward[index])


# The handler


def test_num_bytes(handler):
    assert handler.get_num_bytes(windows(3)) == 3 * 64 * 64 * 4
    assert handler.get_num_bytes([]) == 0


def test_handler_travels_by_pickle(handler, model):
    travelled = pickle.loads(pickle.dumps(handler))
    assert travelled.image_shape == (64, 64)
    (expected,) = handler.run_inference(windows(1), model)
    (prediction,) = travelled.run_inference(windows(1), travelled.load_model())
    np.testing.assert_array_equal(prediction.log_probs, expected.log_probs)
    np.testing.assert_array_equal(prediction.embedding, expected.embedding)


def test_handler_holds_no_weights(handler, tiny_checkpoint):
    handler.load_model()
    assert len(pickle.dumps(handler)) < (tiny_checkpoint / "model.safetensors").stat().st_size / 10


def test_bfloat16_agrees_on_the_best_label(separated_checkpoint):
    elements = windows(32)
    handler = vit_handler(separated_checkpoint, batch_size=8, precision="bfloat16")
    found = (elements | RunInference(handler))["predictions"]
    found.sort(key=lambda prediction: prediction.window_index)
    expected = [answer[0] for answer in transformers_answer(separated_checkpoint, elements)]
    labels = set()
    for prediction, log_probs in zip(found, expected, strict=True):
        best, second = np.sort(log_probs)[:-3:-1]
        if best - second > 1.0:
            assert prediction.log_probs.argmax() == log_probs.argmax()
            labels.add(log_probs.argmax())
    assert len(labels) > 1


# What cannot be predicted


@pytest.mark.parametrize("shape", [(64, 63), (63, 64), (1, 64, 64), (64,), (0, 0), (64, 64, 3)])
def test_image_of_another_shape(shape):
    with pytest.raises(StageError) as raised:
        check_image(np.zeros(shape, np.float32), (64, 64))
    assert raised.value.reason is Reason.INVALID_IMAGE
    assert "(64, 64)" in raised.value.message
    assert str(shape) in raised.value.message


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_image_that_is_not_finite(bad):
    image = np.zeros((64, 64), np.float32)
    image[-1, -1] = bad
    with pytest.raises(StageError) as raised:
        check_image(image, (64, 64))
    assert raised.value.reason is Reason.INVALID_IMAGE


def test_bad_images_fail_and_their_neighbours_are_predicted(tiny_checkpoint):
    elements = windows(6)
    elements[1] = window(np.zeros((63, 64), np.float32), 1, "shape.mp3")
    nan = elements[4].image.copy()
    nan[3, 3] = np.nan
    elements[4] = window(nan, 4, "nan.mp3")
    result = elements | RunInference(vit_handler(tiny_checkpoint))
    predictions = {prediction.window_index: prediction for prediction in result["predictions"]}
    assert sorted(predictions) == [0, 2, 3, 5]
    good = [elements[index] for index in (0, 2, 3, 5)]
    for element, (log_probs, _) in zip(
        good, transformers_answer(tiny_checkpoint, good), strict=True
    ):
        found = predictions[element.window_index].log_probs
        np.testing.assert_allclose(found, log_probs, atol=1e-5)
    failures = {failure.track.uri: failure for failure in result["failures"]}
    assert sorted(failures) == ["nan.mp3", "shape.mp3"]
    for failure in failures.values():
        assert failure.reason is Reason.INVALID_IMAGE
        assert failure.stage == "RunInference"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_answers_with_nan(tiny_checkpoint, tmp_path, value):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][1] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = windows(5) | RunInference(vit_handler(folder))
    assert result["predictions"] == []
    assert len(result["failures"]) == 5
    for failure in result["failures"]:
        assert (failure.track.uri, failure.reason) == ("a.mp3", Reason.INVALID_SCORES)
        assert failure.stage.partition("/")[0] == "RunInference"


def test_a_label_ruled_out_is_no_failure(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.bias"][1] = -float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = windows(2) | RunInference(vit_handler(folder))
    assert result["failures"] == []
    assert [prediction.log_probs[1] for prediction in result["predictions"]] == [-np.inf] * 2


def test_nothing_in_nothing_out(handler):
    result = [] | RunInference(handler)
    assert result["predictions"] == result["failures"] == []


class _OneForAll(ViTModelHandler):
    """As on a GPU: one process has the model, and images travel to it."""

    def share_model_across_processes(self):
        return True


def test_a_model_in_one_process_for_all(tiny_checkpoint):
    checkpoint, found = load_checkpoint(str(tiny_checkpoint)), {}
    for kind in (ViTModelHandler, _OneForAll):
        handler = kind(checkpoint, batch_size=4, device="cpu", precision="float32")
        inferred = windows(5) | RunInference(handler)
        found[kind] = {p.window_index: p.log_probs for p in inferred["predictions"]}
    assert found[_OneForAll].keys() == found[ViTModelHandler].keys() == set(range(5))
    for index, log_probs in found[ViTModelHandler].items():
        # float16 keeps eleven bits of an image
        np.testing.assert_allclose(found[_OneForAll][index], log_probs, atol=5e-3)


# Recognisers


def sounds(count, seed=0) -> list[LogMelWindow]:
    """Windows of a recogniser: full ones, and such that sound is in some of their frames."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1.5, (count, 20, 63)).astype(np.float32)
    contents_s = [1.0, 0.4, 0.0, 0.7]
    return [
        dataclasses.replace(window(image, index), content_s=contents_s[index % 4])
        for index, image in enumerate(images)
    ]


@pytest.fixture(scope="module", params=CELLS)
def recogniser(request, tmp_path_factory):
    folder = make_recogniser(tmp_path_factory.mktemp(request.param), request.param)
    settings = {"batch_size": 5, "device": "cpu", "precision": "float32", "embeddings": True}
    return folder, make_handler(load_checkpoint(str(folder)), **settings)


def test_the_handler_is_chosen_by_the_checkpoint(recogniser, tiny_checkpoint):
    checkpoint = load_checkpoint(str(tiny_checkpoint))
    vit = make_handler(checkpoint, device="cpu", precision="bfloat16", batch_size=3, threads=2)
    assert type(vit) is ViTModelHandler
    assert vit.model_settings == {
        "kind": "vit", "model": str(tiny_checkpoint), "fingerprint": checkpoint.fingerprint,
        "device": "cpu", "precision": "bfloat16", "batch_size": 3,
    }  # fmt: skip
    folder, handler = recogniser
    assert type(handler) is SequenceModelHandler
    assert handler.image_shape == (20, 63)
    assert not handler.share_model_across_processes()
    assert handler.model_settings.keys() == {"kind", "model", "fingerprint"}
    assert handler.model_settings["model"] == str(folder)


def test_a_window_s_label_is_the_one_after_its_sound(recogniser):
    folder, handler = recogniser
    elements = sounds(5)
    predictions = list(handler.run_inference(elements, handler.load_model()))
    for element, prediction, frames in zip(
        elements, predictions, [63, 26, 1, 44, 63], strict=True
    ):
        log_probs, pooled = recognised(folder, element.image.T[:frames])
        np.testing.assert_allclose(prediction.log_probs, log_probs, atol=2e-5)
        np.testing.assert_allclose(prediction.embedding, pooled, atol=1e-5)
        assert prediction.log_probs.dtype == np.float32
        assert prediction.log_probs.base is None


def test_neighbours_and_place_change_no_bit_of_a_recogniser_s(recogniser):
    _, handler = recogniser
    model = handler.load_model()
    probe = dataclasses.replace(sounds(1, seed=9)[0], window_index=99)
    (expected,) = handler.run_inference([probe], model)
    for place in range(5):
        for neighbours in (sounds(5, seed=1), sounds(5, seed=2)):
            batch = [*neighbours[:place], probe, *neighbours[place + 1 :]]
            prediction = list(handler.run_inference(batch, model))[place]
            assert prediction.window_index == 99
            np.testing.assert_array_equal(prediction.log_probs, expected.log_probs)
            np.testing.assert_array_equal(prediction.embedding, expected.embedding)


def test_order_of_a_recogniser_s_windows_changes_no_bit(recogniser):
    elements = sounds(11)
    stage = RunInference(pickle.loads(pickle.dumps(recogniser[1])))
    forward, backward = (
        {p.window_index: p.log_probs for p in (order | stage)["predictions"]}
        for order in (elements, elements[::-1])
    )
    assert sorted(forward) == sorted(backward) == list(range(11))
    for index in range(11):
        np.testing.assert_array_equal(forward[index], backward[index])


def test_images_that_a_recogniser_cannot_take_fail_alone(recogniser):
    elements = sounds(3)
    elements[1] = window(np.zeros((20, 62), np.float32), 1, "shape.mp3")
    result = elements | RunInference(recogniser[1])
    assert sorted(p.window_index for p in result["predictions"]) == [0, 2]
    assert [failure.track.uri for failure in result["failures"]] == ["shape.mp3"]
