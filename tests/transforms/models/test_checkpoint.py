from __future__ import annotations

import dataclasses
import json
import math
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import (
    LABELS,
    Booby,
    edit_config,
    make_checkpoint,
    make_enhancer,
    make_recogniser,
    tiny_front_end,
)
from transforms.errors import CatalogError, CheckpointError, FrontEndError, UsageError
from transforms.models import checkpoint
from transforms.models.checkpoint import (
    SHIPPED,
    find_checkpoint,
    image_size,
    load_checkpoint,
    shipped_models,
)
from transforms.models.front_end import FRONT_END_FILE, PRESETS
from transforms.models.vit import ViT

FRONT_END = tiny_front_end()


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the tiny checkpoint that a test may damage."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "model")


def fingerprint(folder):
    return load_checkpoint(str(folder)).fingerprint


def test_what_a_checkpoint_states(folder):
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.folder == folder
    assert checkpoint.labels == LABELS
    assert checkpoint.front_end == FRONT_END
    assert checkpoint.unknown_threshold == 0.3
    assert checkpoint.embedding_size == 32
    assert len(checkpoint.fingerprint) == 16


def test_threshold_is_off_where_none_is_stated(folder):
    edit_config(folder, without=("unknown_threshold",))
    assert load_checkpoint(str(folder)).unknown_threshold == 0.0


def test_labels_and_logits_are_as_many(folder):
    edit_config(folder, id2label={"0": "one label"})
    with pytest.raises(CheckpointError, match=f"names 1 labels.* {len(LABELS)} logits"):
        load_checkpoint(str(folder))


def test_labels_are_in_the_order_of_the_logits(tmp_path):
    names = tuple(f"label {index}" for index in range(11))  # as text "10" comes before "2"
    folder = make_checkpoint(tmp_path / "eleven", labels=names, front_end=FRONT_END)
    shuffled = {str(index): names[index] for index in (10, 2, 0, 1, 3, 9, 8, 7, 6, 5, 4)}
    edit_config(folder, id2label=shuffled)
    assert load_checkpoint(str(folder)).labels == names


def test_front_end_changes(folder):
    checkpoint = load_checkpoint(str(folder), front_end_changes={"windows": "middle"})
    assert checkpoint.front_end == dataclasses.replace(FRONT_END, windows="middle")
    with pytest.raises(FrontEndError, match="windows"):
        load_checkpoint(str(folder), front_end_changes={"windows": "few"})


@pytest.mark.parametrize(
    ("size", "pair"), [(224, (224, 224)), ([128, 256], (128, 256)), ((32, 16), (32, 16))]
)
def test_image_size(size, pair):
    assert image_size({"image_size": size}) == pair


def test_errors_are_wrong_calls():
    assert issubclass(CheckpointError, UsageError)
    assert issubclass(CheckpointError, CatalogError)


# What there is


def test_no_such_folder_names_the_remedy(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json there.*checkpoint folder"):
        load_checkpoint(str(tmp_path / "nowhere"))


def test_an_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(str(tmp_path))


def test_a_file_instead_of_a_folder(folder):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(str(folder / "config.json"))


def test_shipped_models_are_found_by_name_and_load():
    all_names = shipped_models() + shipped_models(enhancing=True)
    assert sorted(all_names) == sorted(p.name for p in SHIPPED.iterdir() if p.is_dir())
    for name in shipped_models():
        assert find_checkpoint(name) == SHIPPED / name
        assert load_checkpoint(name).labels


def test_shipped_enhancers_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHIPPED", tmp_path)
    make_enhancer(tmp_path / "cleaner")
    make_recogniser(tmp_path / "listener")
    make_checkpoint(tmp_path / "viewer", front_end=FRONT_END)
    assert shipped_models() == ["listener", "viewer"]
    assert shipped_models(enhancing=True) == ["cleaner"]
    assert load_checkpoint("listener").name == "listener"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "model_type is None"),
        ("{}", "model_type is None"),
        ('{"model_type": "audio-spectrogram-transformer"}', "audio-spectrogram-transformer"),
        ('{"model_type": "vit"}', "missing hidden_size, id2label, image_size"),
        (
            '{"model_type": "vit", "problem_type": "multi_label_classification"}',
            "problem_type is 'multi_label_classification'",
        ),
    ],
)
def test_another_config(folder, content, message):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(folder))


@pytest.mark.parametrize(
    "id2label",
    [{}, {"0": "a", "2": "b"}, {"1": "a", "2": "b"}, {"a": "0"}, ["a", "b"], None],
)
def test_labels_that_do_not_number_the_logits(folder, id2label):
    edit_config(folder, id2label=id2label)
    with pytest.raises(CheckpointError, match="id2label"):
        load_checkpoint(str(folder))


def test_two_logits_of_one_label(folder):
    # The label of a row could not be told from the scores' order, nor counted.
    edit_config(folder, id2label={"0": "pop", "1": "rock", "2": "pop", "3": "jazz"})
    with pytest.raises(CheckpointError, match="pop"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.1, 1.0, 1.5, "high", None, [0.5]])
def test_threshold_out_of_range(folder, value):
    edit_config(folder, unknown_threshold=value)
    with pytest.raises(CheckpointError, match="unknown_threshold"):
        load_checkpoint(str(folder))


# Weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pth"])
def test_a_pickle_is_never_opened(folder, tmp_path, name):
    written = tmp_path / "written-by-the-pickle"
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Booby(written)))
    with pytest.raises(CheckpointError, match="pickled weights are never loaded"):
        load_checkpoint(str(folder))
    with pytest.raises(CheckpointError):
        ViT(folder, device="cpu")
    assert not written.exists()
    with (folder / name).open("rb") as file:
        pickle.load(file).close()
    assert written.exists()  # the trap works


def test_a_torch_pickle_beside_the_weights_is_not_opened(folder, tmp_path):
    written = tmp_path / "written-by-the-pickle"
    torch.save(Booby(written), folder / "pytorch_model.bin")
    load_checkpoint(str(folder))
    ViT(folder, device="cpu", precision="float32")
    assert not written.exists()


def test_a_pickle_under_the_name_of_safetensors(folder, tmp_path):
    written = tmp_path / "written-by-the-pickle"
    torch.save(Booby(written), folder / "model.safetensors")
    with pytest.raises(CheckpointError):
        ViT(folder, device="cpu")
    assert not written.exists()


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_cut_off_weights(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="model"):
        ViT(folder, device="cpu")


def change_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_missing_tensor(folder):
    change_weights(folder, lambda tensors: tensors.pop("classifier.bias"))
    with pytest.raises(CheckpointError, match=r"classifier\.bias"):
        ViT(folder, device="cpu")


def test_left_over_tensor(folder):
    change_weights(folder, lambda tensors: tensors.update(stranger=torch.zeros(3)))
    with pytest.raises(CheckpointError, match="stranger"):
        ViT(folder, device="cpu")


def test_tensor_of_another_shape(folder):
    change_weights(folder, lambda t: t.update({"classifier.weight": torch.zeros(5, 32)}))
    with pytest.raises(CheckpointError, match=r"classifier\.weight"):
        ViT(folder, device="cpu")


def test_more_labels_than_logits(folder):
    edit_config(folder, id2label={str(i): f"label {i}" for i in range(5)}, label2id={})
    with pytest.raises(CheckpointError, match="classifier"):
        ViT(folder, device="cpu")


# The front end


def test_no_front_end_names_the_presets(folder):
    (folder / FRONT_END_FILE).unlink()
    with pytest.raises(FrontEndError, match="no front end.*--front_end=ccmusic"):
        load_checkpoint(str(folder))


@pytest.fixture
def large(tmp_path):
    """A checkpoint for 224 x 224 images that brings no front end."""
    return make_checkpoint(tmp_path / "large", image_size=224, patch_size=56)


def test_a_preset_for_a_checkpoint_without_one(large):
    assert load_checkpoint(str(large), front_end_preset="ccmusic").front_end == PRESETS["ccmusic"]


def test_an_image_processor_is_no_front_end_but_a_preset_may_replace_it(large):
    content = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    (large / FRONT_END_FILE).write_text(json.dumps(content))
    with pytest.raises(FrontEndError, match="--front_end=ccmusic"):
        load_checkpoint(str(large))
    assert load_checkpoint(str(large), front_end_preset="ccmusic").front_end == PRESETS["ccmusic"]


def test_a_damaged_front_end_of_our_own_is_not_replaced_in_silence(large):
    tiny_front_end(224).save(large)
    path = large / FRONT_END_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_mel": 96}))
    with pytest.raises(FrontEndError, match="n_mel"):
        load_checkpoint(str(large), front_end_preset="ccmusic")


def test_a_preset_for_a_checkpoint_with_another_front_end(folder):
    with pytest.raises(FrontEndError, match="brings its own front end"):
        load_checkpoint(str(folder), front_end_preset="ccmusic")


def test_an_unknown_preset_names_the_known(large):
    with pytest.raises(FrontEndError, match="whisper.*ccmusic"):
        load_checkpoint(str(large), front_end_preset="whisper")


def test_image_of_another_size_than_the_models(folder):
    tiny_front_end(48).save(folder)
    with pytest.raises(CheckpointError, match=r"\(64, 64\).*\(48, 48\)"):
        load_checkpoint(str(folder))


def test_images_that_are_not_square(tmp_path):
    folder = make_checkpoint(
        tmp_path / "wide",
        image_size=(32, 64),
        front_end=tiny_front_end(image_height=32, image_width=64),
    )
    assert load_checkpoint(str(folder)).front_end.image_width == 64
    tiny_front_end(image_height=64, image_width=32).save(folder)
    with pytest.raises(CheckpointError, match=r"\(32, 64\).*\(64, 32\)"):
        load_checkpoint(str(folder))


def test_a_front_end_with_an_enhancer_needs_that_one(folder):
    tiny_front_end(denoise="model:0123456789abcdef").save(folder)
    for changes in ({}, {"denoise": "none"}, {"denoise": "model:fedcba9876543210"}):
        with pytest.raises(FrontEndError, match="the enhancer 0123456789abcdef; give its"):
            load_checkpoint(str(folder), front_end_changes=changes)
    given = {"denoise": "model:0123456789abcdef"}
    assert load_checkpoint(str(folder), front_end_changes=given).front_end.needs_enhancer


# Fingerprints


def test_fingerprint_does_not_depend_on_the_folder(folder, tmp_path):
    assert fingerprint(shutil.copytree(folder, tmp_path / "other")) == fingerprint(folder)


def test_fingerprint_does_not_depend_on_the_order_of_the_configuration(folder):
    before = fingerprint(folder)
    path = folder / "config.json"
    turned = dict(reversed(json.loads(path.read_text()).items()))
    path.write_text(json.dumps(turned, indent=7))
    assert fingerprint(folder) == before


def test_fingerprint_changes_with_the_weights(folder):
    before = fingerprint(folder)
    change_weights(folder, lambda tensors: tensors["classifier.bias"].add_(1e-6))
    assert fingerprint(folder) != before


@pytest.mark.parametrize("change", [{"unknown_threshold": 0.31}, {"hidden_act": "relu"}])
def test_fingerprint_changes_with_the_configuration(folder, change):
    before = fingerprint(folder)
    edit_config(folder, **change)
    assert fingerprint(folder) != before


def test_front_end_has_a_fingerprint_of_its_own(folder):
    before = load_checkpoint(str(folder))
    tiny_front_end(top_db=60.0).save(folder)
    after = load_checkpoint(str(folder))
    assert after.front_end.fingerprint() != before.front_end.fingerprint()
    assert after.fingerprint == before.fingerprint
