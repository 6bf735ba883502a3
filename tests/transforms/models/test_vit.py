from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from tests.checkpoints import make_checkpoint
from transforms.errors import CheckpointError, WorkerError
from transforms.models.checkpoint import DEFAULT_MODEL, find_same, fingerprint_of, load_checkpoint
from transforms.models.vit import (
    ViT,
    load_vit,
    resolve_device,
    resolve_precision,
    use_threads,
)


def images(count=3, size=64, seed=0):
    shape = (count, size, size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def transformers_answer(folder, batch):
    """Log-probabilities and class token of transformers' own forward pass."""
    model = ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    channels = model.config.num_channels
    pixels = torch.from_numpy(np.repeat(batch[:, None], channels, axis=1))
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
        token = model.vit(pixels).last_hidden_state[:, 0]
    return torch.log_softmax(output.logits, dim=-1).numpy(), token.numpy()


@pytest.mark.parametrize(
    ("channels", "size", "patch"), [(3, 64, 16), (1, 64, 16), (3, 224, 32), (1, 48, 8)]
)
def test_equals_transformers(tmp_path, channels, size, patch):
    folder = make_checkpoint(tmp_path, channels=channels, image_size=size, patch_size=patch)
    output = ViT(folder, device="cpu", precision="float32").predict(images(size=size))
    log_probs, token = transformers_answer(folder, images(size=size))
    np.testing.assert_allclose(output.log_probs, log_probs, atol=1e-5)
    np.testing.assert_allclose(output.embeddings, token, atol=1e-5)
    assert np.ptp(log_probs, axis=0).max() > 0.1  # the images tell themselves apart


def test_what_is_returned(tiny_checkpoint):
    output = ViT(tiny_checkpoint, device="cpu", precision="float32").predict(images(5))
    assert (output.log_probs.shape, output.log_probs.dtype) == ((5, 4), np.float32)
    assert (output.embeddings.shape, output.embeddings.dtype) == ((5, 32), np.float32)
    np.testing.assert_allclose(np.exp(output.log_probs).sum(axis=1), 1.0, atol=1e-6)


def test_loaded_twice_answers_the_same(tiny_checkpoint):
    first, second = (
        ViT(tiny_checkpoint, device="cpu", precision="float32").predict(images()) for _ in range(2)
    )
    np.testing.assert_array_equal(first.log_probs, second.log_probs)
    np.testing.assert_array_equal(first.embeddings, second.embeddings)


def test_does_not_write_to_its_images(tiny_checkpoint):
    batch = images()
    ViT(tiny_checkpoint, device="cpu", precision="float32").predict(batch)
    np.testing.assert_array_equal(batch, images())


def test_nan_comes_out_as_nan_and_only_there(tiny_checkpoint):
    batch = images()
    batch[1, 5, 5] = np.nan
    log_probs = ViT(tiny_checkpoint, device="cpu", precision="float32").predict(batch).log_probs
    assert np.isnan(log_probs[1]).all()
    assert np.isfinite(log_probs[[0, 2]]).all()


def test_bfloat16_agrees_on_the_best_label(separated_checkpoint):
    batch = images(64)
    expected, token = transformers_answer(separated_checkpoint, batch)
    output = ViT(separated_checkpoint, device="cpu", precision="bfloat16").predict(batch)
    assert output.log_probs.dtype == np.float32
    # Images on which the best label leads by more than bfloat16 can blur.
    best, second = np.sort(expected, axis=1)[:, :-3:-1].T
    clear = best - second > 1.0
    assert clear.sum() >= 32
    np.testing.assert_array_equal(
        output.log_probs[clear].argmax(axis=1), expected[clear].argmax(axis=1)
    )
    assert len(set(expected[clear].argmax(axis=1))) > 1
    np.testing.assert_allclose(output.embeddings, token, atol=0.2)
    assert np.abs(output.embeddings - token).max() > 0  # it did compute in bfloat16


def test_precision_as_asked_for():
    for device in ("cpu", "cuda"):
        assert resolve_precision("float32", device) == "float32"
        assert resolve_precision("bfloat16", device) == "bfloat16"


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({}, "float32"),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bfloat16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": True}, "bfloat16"),
        ({"neon": True, "bf16": False}, "float32"),
    ],
)
def test_automatic_precision_on_a_processor(monkeypatch, capabilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", "cpu") == precision


def test_automatic_precision_on_a_pytorch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert resolve_precision("auto", "cpu") == "float32"


@pytest.mark.parametrize(("supported", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_automatic_precision_on_a_gpu(monkeypatch, supported, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: supported)
    assert resolve_precision("auto", "cuda") == precision


@pytest.mark.parametrize(
    ("asked", "present", "device"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_device(monkeypatch, asked, present, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert resolve_device(asked) == device


def test_a_gpu_that_is_not_there(monkeypatch, tiny_checkpoint):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="--device=cpu"):
        ViT(tiny_checkpoint, device="cuda")


def test_threads():
    before = torch.get_num_threads()
    try:
        use_threads(before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        use_threads(before)


def test_loaded_once_until_the_checkpoint_changes(tmp_path):
    settings = {"device": "cpu", "precision": "float32", "batch_size": 2}
    folder = make_checkpoint(tmp_path / "model")
    before = fingerprint_of(folder)
    first = load_vit(str(folder), before, **settings)
    assert load_vit(str(folder), before, **settings) is first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"note": "another one"}))
    after = fingerprint_of(folder)
    assert load_vit(str(folder), after, **settings) is not first


def test_another_checkpoint_at_the_same_path_is_refused(tmp_path):
    """As on a worker's machine that has not got the new model yet, or none."""
    settings = {"device": "cpu", "precision": "float32", "batch_size": 2}
    folder = make_checkpoint(tmp_path / "model")
    with pytest.raises(WorkerError, match=r"is \w{16} there and 0123456789abcdef where"):
        load_vit(str(folder), "0123456789abcdef", **settings)
    with pytest.raises(WorkerError, match="no config.json.*all machines"):
        load_vit(str(tmp_path / "none"), "0123456789abcdef", **settings)


def test_a_shipped_model_is_found_by_its_name():
    """The package may be installed elsewhere on another machine."""
    shipped = load_checkpoint(DEFAULT_MODEL)
    assert shipped.name == DEFAULT_MODEL
    assert find_same(shipped.name, shipped.fingerprint) == shipped.folder


def test_needs_no_front_end_file(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    ours = ViT(folder, device="cpu", precision="float32").predict(images())
    np.testing.assert_allclose(ours.log_probs, transformers_answer(folder, images())[0], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_equals_transformers_on_a_gpu(tiny_checkpoint):
    output = ViT(tiny_checkpoint, device="cuda", precision="float32").predict(images())
    np.testing.assert_allclose(
        output.log_probs, transformers_answer(tiny_checkpoint, images())[0], atol=1e-4
    )
