from __future__ import annotations

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import (
    LABELS,
    edit_config,
    make_checkpoint,
    make_enhancer,
    make_recogniser,
    recogniser_front_end,
    tiny_front_end,
)
from tests.sequence_oracle import recognised
from transforms.errors import CheckpointError, FrontEndError, WorkerError
from transforms.models.checkpoint import SEQUENCE, VIT, fingerprint_of, load_checkpoint
from transforms.models.front_end import FRONT_END_FILE
from transforms.models.loading import load_model
from transforms.models.recogniser import (
    Recogniser,
    frames_of,
    full_window_frames,
    load_recogniser,
)
from transforms.models.sequence import CELLS
from transforms.models.vit import ViT

FRONT_END = recogniser_front_end()


def images(count=3, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1.5, (count, 20, 63)).astype(np.float32)


def every(count, frames=63):
    return np.full(count, frames)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory):
    """A checkpoint. Copy it to change it."""
    return make_recogniser(tmp_path_factory.mktemp("models") / "gru", unknown_threshold=0.3)


@pytest.fixture
def folder(recogniser, tmp_path):
    return shutil.copytree(recogniser, tmp_path / "model")


# The answers


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("frames", [1, 2, 40, 63])
def test_equals_the_equations(tmp_path, cell, frames):
    folder = make_recogniser(tmp_path, cell)
    output = Recogniser(folder).predict(images(), every(3, frames))
    for image, log_probs, embedding in zip(
        images(), output.log_probs, output.embeddings, strict=True
    ):
        expected, pooled = recognised(folder, image.T[:frames])
        np.testing.assert_allclose(log_probs, expected, atol=2e-5)
        np.testing.assert_allclose(embedding, pooled, atol=1e-5)
    if frames == 63:
        assert np.ptp(output.log_probs, axis=0).max() > 0.1  # the images tell themselves apart


def test_what_is_returned(recogniser):
    output = Recogniser(recogniser).predict(images(5), every(5))
    assert (output.log_probs.shape, output.log_probs.dtype) == ((5, 4), np.float32)
    assert (output.embeddings.shape, output.embeddings.dtype) == ((5, 33), np.float32)
    np.testing.assert_allclose(np.exp(output.log_probs).sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_what_comes_behind_the_content_changes_no_bit(tmp_path, cell):
    model = Recogniser(make_recogniser(tmp_path, cell))
    content = np.array([17, 40, 62])
    batch, other = images(), images()
    for row, frames in enumerate(content):
        other[row, :, frames:] = np.nan
    first, second = model.predict(batch, content), model.predict(other, content)
    np.testing.assert_array_equal(first.log_probs, second.log_probs)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)


def test_what_fills_up_a_batch_is_not_computed(recogniser):
    output = Recogniser(recogniser).predict(images(3), np.array([63, 0, 63]))
    alone = Recogniser(recogniser).predict(images(3), every(3))
    assert not output.log_probs[1].any()
    np.testing.assert_array_equal(output.log_probs[[0, 2]], alone.log_probs[[0, 2]])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("hidden_size", [33, 64])
@pytest.mark.parametrize("cell", CELLS)
def test_place_neighbours_and_size_of_the_batch_change_no_bit(
    tmp_path, cell, hidden_size, threads
):
    model = Recogniser(make_recogniser(tmp_path, cell, hidden_size=hidden_size))
    before, probe = torch.get_num_threads(), images(1, seed=9)[0]
    try:
        torch.set_num_threads(threads)
        expected = model.predict(probe[None], every(1))
        for size in (2, 3, 5, 8):
            for place in range(size):
                batch = images(size, seed=size)
                batch[place] = probe
                content = np.random.default_rng(place).integers(0, 64, size)
                content[place] = 63
                output = model.predict(batch, content)
                np.testing.assert_array_equal(output.log_probs[place], expected.log_probs[0])
                np.testing.assert_array_equal(output.embeddings[place], expected.embeddings[0])
    finally:
        torch.set_num_threads(before)


def test_a_view_with_strides_is_read_like_a_copy(recogniser):
    model = Recogniser(recogniser)
    padded = np.zeros((3, 21, 130), np.float32)
    padded[:, :20, :126:2] = images()
    view = padded[:, :20, :126:2]
    np.testing.assert_array_equal(
        model.predict(view, every(3)).log_probs, model.predict(images(), every(3)).log_probs
    )


def test_does_not_write_to_its_images(recogniser):
    batch = images()
    Recogniser(recogniser).predict(batch, every(3))
    np.testing.assert_array_equal(batch, images())


def test_nan_comes_out_as_nan_and_only_there(recogniser):
    batch = images()
    batch[1, 5, 5] = np.nan
    log_probs = Recogniser(recogniser).predict(batch, every(3)).log_probs
    assert np.isnan(log_probs[1]).all()
    assert np.isfinite(log_probs[[0, 2]]).all()


# Frames


@pytest.mark.parametrize(
    ("samples", "frames"),
    [(0, 1), (1, 1), (127, 1), (128, 2), (255, 2), (4_000, 32), (7_935, 62), (8_000, 63)],
)
def test_frames_of(samples, frames):
    assert frames_of(samples / 8_000, FRONT_END) == frames


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
def test_frames_of_seconds_that_were_samples(rate):
    front_end = recogniser_front_end(sample_rate_hz=rate, image_width=10**9)
    for samples in (1, 127, 128, 129, 22_049, 22_050, 12_800_000):
        assert frames_of(samples / rate, front_end) == 1 + samples // 128


def test_no_more_frames_than_the_image_has():
    assert frames_of(1_000.0, FRONT_END) == 63
    assert full_window_frames(FRONT_END) == 63


# Loading


def test_loaded_once_until_the_checkpoint_changes(folder):
    before = fingerprint_of(folder)
    first = load_recogniser(model=str(folder), fingerprint=before)
    assert load_model(SEQUENCE, model=str(folder), fingerprint=before) is first
    edit_config(folder, note="another one")
    assert load_recogniser(str(folder), fingerprint_of(folder)) is not first


def test_a_vit_is_loaded_by_its_kind(tiny_checkpoint):
    settings = {"device": "cpu", "precision": "float32", "batch_size": 2}
    fingerprint = fingerprint_of(tiny_checkpoint)
    model = load_model(VIT, model=str(tiny_checkpoint), fingerprint=fingerprint, **settings)
    assert isinstance(model, ViT)


def test_another_checkpoint_at_the_same_path_is_refused(folder, tmp_path):
    with pytest.raises(WorkerError, match=r"is \w{16} there and 0123456789abcdef where"):
        load_recogniser(str(folder), "0123456789abcdef")
    with pytest.raises(WorkerError, match="no config.json.*all machines"):
        load_recogniser(str(tmp_path / "none"), "0123456789abcdef")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_off_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model"):
        Recogniser(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.gate.bias"), r"head\.gate\.bias"),
        (lambda t: t.update(stranger=torch.zeros(3)), "stranger"),
        (lambda t: t.update({"input_mean": torch.zeros(21)}), "input_mean"),
    ],
)
def test_weights_of_another_shape(folder, change, message):
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=message):
        Recogniser(folder)


# What a checkpoint states


def test_what_a_checkpoint_states(recogniser):
    checkpoint = load_checkpoint(str(recogniser))
    assert (checkpoint.folder, checkpoint.model_type) == (recogniser, "catalog_sequence")
    assert (checkpoint.labels, checkpoint.embedding_size) == (LABELS, 33)
    assert (checkpoint.front_end, checkpoint.unknown_threshold) == (FRONT_END, 0.3)
    assert checkpoint.fingerprint == fingerprint_of(recogniser)


def test_a_vit_says_what_it_is(tiny_checkpoint):
    assert load_checkpoint(str(tiny_checkpoint)).model_type == "vit"


def test_an_enhancer_does_not_label(tmp_path):
    folder = make_enhancer(tmp_path / "enhancer")
    with pytest.raises(CheckpointError, match=r"pipeline\.enhance, or as --denoise="):
        load_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match="does not label"):
        Recogniser(folder)


def test_a_vit_is_no_recogniser(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="model_type is 'vit'.*'catalog_sequence'"):
        Recogniser(tiny_checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "translation"}, "head must be one of"),
        ({"cell": "transformer"}, "cell must be one of"),
        ({"hidden_size": 0}, "hidden_size must be from 1"),
        ({"layers": "2"}, "layers must be from 1"),
        ({"id2label": {"0": "a", "1": "b"}}, "id2label must name the 4 outputs"),
        ({"id2label": None}, "id2label must name the 4 outputs"),
        ({"id2label": {"0": "a", "1": "b", "2": "c", "4": "d"}}, "without a gap"),
        ({"outputs": 5, "id2label": dict(enumerate("abcde"))}, "names 5 labels.* 4 logits"),
        ({"unknown_threshold": 1.5}, "unknown_threshold"),
        ({"inputs": 40}, "frames of 40 values.* 20"),
    ],
)
def test_a_configuration_that_does_not_fit(folder, change, message):
    edit_config(folder, **change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("name", ["head", "cell", "inputs", "outputs", "hidden_size", "layers"])
def test_a_setting_that_is_missing_is_named(folder, name):
    edit_config(folder, without=(name,))
    with pytest.raises(CheckpointError, match=f"states no {name}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "peak"},
        {"remove_dc": True},
        {"normalize_peak": True},
        {"trim_silence_db": 60.0},
        {"denoise": "spectral_gate"},
    ],
    ids=str,
)
def test_a_front_end_that_looks_at_the_whole_window(folder, change):
    recogniser_front_end(**change).save(folder)
    (name, value) = next(iter(change.items()))
    with pytest.raises(FrontEndError, match=f"what comes later.*{name} is {value!r}"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("change", [{"image_width": 62}, {"image_height": 32}], ids=str)
def test_a_front_end_that_resizes(folder, change):
    recogniser_front_end(**change).save(folder)
    with pytest.raises(CheckpointError, match=r"\(20, 63\); its front end resizes"):
        load_checkpoint(str(folder))


def test_a_front_end_of_other_bands(folder):
    recogniser_front_end(n_mels=24, image_height=24).save(folder)
    with pytest.raises(CheckpointError, match="frames of 20 values, its front end makes 24"):
        load_checkpoint(str(folder))


def test_no_front_end(folder):
    (folder / FRONT_END_FILE).unlink()
    with pytest.raises(FrontEndError, match="states no front end"):
        load_checkpoint(str(folder))
    with pytest.raises(FrontEndError, match="reference is 'peak'"):
        load_checkpoint(str(folder), front_end_preset="ccmusic")


def test_what_a_caller_asks_for_may_look_at_the_whole_window(recogniser):
    asked = {"denoise": "spectral_gate", "trim_silence_db": 60.0, "normalize_peak": True,
             "remove_dc": True, "windows": "3"}  # fmt: skip
    checkpoint = load_checkpoint(str(recogniser), front_end_changes=asked)
    assert checkpoint.front_end == dataclasses.replace(FRONT_END, **asked)


def test_longer_windows_have_more_frames(recogniser):
    checkpoint = load_checkpoint(str(recogniser), front_end_changes={"window_seconds": 2.5})
    assert checkpoint.front_end == dataclasses.replace(
        FRONT_END, window_seconds=2.5, image_width=157
    )


def test_a_whole_track_is_no_window(folder):
    with pytest.raises(FrontEndError, match="--windows=whole.*--windows=all"):
        load_checkpoint(str(folder), front_end_changes={"windows": "whole"})
    recogniser_front_end(windows="whole").save(folder)
    with pytest.raises(FrontEndError, match="--windows=whole"):
        load_checkpoint(str(folder))
    assert load_checkpoint(str(folder), front_end_changes={"windows": "all"}).labels == LABELS


def test_fingerprint_changes_with_the_weights(folder):
    before = fingerprint_of(folder)
    change_weights(folder, lambda tensors: tensors["head.gate.bias"].add_(1e-6))
    assert load_checkpoint(str(folder)).fingerprint != before


def test_the_front_end_s_file_states_the_reference(recogniser):
    stated = json.loads((recogniser / FRONT_END_FILE).read_text())
    assert stated["reference"] == "full_scale"
    assert not math.isnan(stated["top_db"])


def test_helpers_differ(tmp_path):
    # The tests above would pass in vain if a ViT's front end fitted.
    folder = make_checkpoint(tmp_path / "vit", front_end=tiny_front_end())
    assert load_checkpoint(str(folder)).front_end.reference == "peak"
