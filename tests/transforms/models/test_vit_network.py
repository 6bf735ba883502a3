"""The network itself; that it equals transformers' is shown in test_vit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification

from tests.checkpoints import edit_config, make_checkpoint
from transforms.errors import CheckpointError
from transforms.models import linear
from transforms.models.checkpoint import DEFAULT_MODEL, find_checkpoint, image_size
from transforms.models.vit import ViT, use_threads
from transforms.models.vit_network import read_shape


def answers(folder, batch, **settings):
    return ViT(folder, device="cpu", precision="float32", **settings).predict(batch).log_probs


def images(count=3, size=64, seed=0):
    shape = (count, size, size)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def transformers_answers(folder, batch):
    model = ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    pixels = torch.from_numpy(np.repeat(batch[:, None], model.config.num_channels, axis=1))
    with torch.no_grad():
        return torch.log_softmax(model(pixels).logits, dim=-1).numpy()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    "activation", ["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish"]
)
def test_activations(tmp_path, activation, packed, monkeypatch):
    if not packed:
        monkeypatch.setattr(linear, "_packs", lambda dtype: False)
    folder = make_checkpoint(tmp_path)
    edit_config(folder, hidden_act=activation)
    expected = transformers_answers(folder, images())
    np.testing.assert_allclose(answers(folder, images()), expected, atol=1e-5)


def test_another_activation_is_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    edit_config(folder, hidden_act="mish")
    with pytest.raises(CheckpointError, match="'mish'; known are gelu"):
        answers(folder, images())


def test_without_biases_of_query_key_and_value(tmp_path):
    folder = make_checkpoint(tmp_path)
    path = folder / "model.safetensors"
    kept = {
        n: t
        for n, t in load_file(path).items()
        if ".attention.attention." not in n or "bias" not in n
    }
    save_file(kept, path, metadata={"format": "pt"})
    edit_config(folder, qkv_bias=False)
    expected = transformers_answers(folder, images())
    np.testing.assert_allclose(answers(folder, images()), expected, atol=1e-5)


def test_names_of_transformers_5_in_memory(tmp_path):
    folder = make_checkpoint(tmp_path)
    expected = answers(folder, images())
    model = ViTForImageClassification.from_pretrained(folder, local_files_only=True)
    state = model.state_dict()
    assert "vit.layers.0.mlp.fc1.weight" in state  # not as in the file
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(answers(folder, images()), expected)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_stored_in_a_short_type(tmp_path, stored):
    folder = make_checkpoint(tmp_path)
    path = folder / "model.safetensors"
    short = {name: tensor.to(stored) for name, tensor in load_file(path).items()}
    save_file({n: t.float() for n, t in short.items()}, path, metadata={"format": "pt"})
    expected = transformers_answers(folder, images())
    save_file(short, path, metadata={"format": "pt"})
    np.testing.assert_allclose(answers(folder, images()), expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_laid_out_weights_give_what_plain_ones_do(tmp_path, monkeypatch, precision):
    folder = make_checkpoint(tmp_path)
    laid_out = ViT(folder, device="cpu", precision=precision).predict(images())
    monkeypatch.setattr(linear, "_packs", lambda dtype: False)
    plain = ViT(folder, device="cpu", precision=precision).predict(images())
    tolerance = 1e-5 if precision == "float32" else 0.1
    np.testing.assert_allclose(laid_out.log_probs, plain.log_probs, atol=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_batches_that_the_weights_are_not_laid_out_for(tmp_path, precision, batch_size):
    folder = make_checkpoint(tmp_path)
    expected = ViT(folder, device="cpu", precision=precision, batch_size=3).predict(images())
    given = ViT(folder, device="cpu", precision=precision, batch_size=batch_size).predict(images())
    tolerance = 1e-5 if precision == "float32" else 0.1
    np.testing.assert_allclose(given.log_probs, expected.log_probs, atol=tolerance)


def test_every_kind_of_disagreement_is_named(tmp_path):
    folder = make_checkpoint(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["vit.layernorm.bias"] = torch.zeros(31)
    tensors["vit.pooler.dense.bias"] = torch.zeros(32)
    del tensors["vit.embeddings.cls_token"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError) as raised:
        answers(folder, images())
    told = str(raised.value)
    assert "'missing': ['vit.embeddings.cls_token']" in told
    assert "'left over': ['vit.pooler.dense.bias']" in told
    assert "'of another shape': ['vit.layernorm.bias (31,) for (32,)']" in told


def test_what_a_configuration_leaves_out_is_as_transformers_has_it(tmp_path):
    from transformers import ViTConfig

    folder = make_checkpoint(tmp_path)
    left_out = (
        "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act",
        "layer_norm_eps", "patch_size", "num_channels", "qkv_bias",
    )  # fmt: skip
    edit_config(folder, without=left_out)
    shape, config = read_shape(folder), ViTConfig()
    assert (shape.layers, shape.heads, shape.intermediate) == (
        config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
    )  # fmt: skip
    assert (shape.activation, shape.epsilon) == (config.hidden_act, config.layer_norm_eps)
    assert (shape.patch, shape.channels) == ((config.patch_size,) * 2, config.num_channels)
    assert shape.qkv_bias == config.qkv_bias


def test_patches_that_are_not_square(tmp_path):
    folder = make_checkpoint(tmp_path, image_size=64, patch_size=16)
    edit_config(folder, image_size=[64, 32], patch_size=[64, 2])
    path = folder / "model.safetensors"
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(0)
    tensors["vit.embeddings.patch_embeddings.projection.weight"] = torch.randn(
        32, 3, 64, 2, generator=generator
    )
    save_file(tensors, path, metadata={"format": "pt"})  # 16 patches and a token as before
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 64, 32)).astype(np.float32)
    expected = transformers_answers(folder, batch)
    np.testing.assert_allclose(answers(folder, batch), expected, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shipped", [True, False])
def test_neither_place_nor_threads_change_a_bit(tmp_path, precision, threads, shipped):
    """At sizes at which attention of one query, PyTorch's own or as a product, depends on them."""
    folder = make_checkpoint(tmp_path, image_size=224, patch_size=16)
    if shipped:
        folder = find_checkpoint(DEFAULT_MODEL)
    size = image_size(json.loads((folder / "config.json").read_text()))
    model = ViT(folder, device="cpu", precision=precision, batch_size=8)
    batch = np.random.default_rng(0).uniform(-1, 1, (8, *size)).astype(np.float32)
    before = torch.get_num_threads()
    try:
        use_threads(1)
        expected = model.predict(batch).log_probs
        use_threads(threads)
        for shift in range(8):
            turned = model.predict(np.roll(batch, shift, axis=0)).log_probs
            np.testing.assert_array_equal(np.roll(turned, -shift, axis=0), expected)
    finally:
        use_threads(before)
