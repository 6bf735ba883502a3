from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from tests.checkpoints import LABELS, Booby, tiny_front_end
from transforms.errors import CheckpointError
from transforms.models.checkpoint import load_checkpoint
from transforms.models.convert import convert, read_state_dict
from transforms.models.front_end import load_front_end
from transforms.models.vit import ViT

VisionTransformer = pytest.importorskip("torchvision.models.vision_transformer").VisionTransformer


def torchvision_model(
    labels=4, *, width=128, size=64, patch=16, layers=2, heads=None, **changes
):  # fmt: skip
    """torchvision's own class, with the heads of 64 that every published ViT has."""
    torch.manual_seed(0)
    model = VisionTransformer(
        image_size=size,
        patch_size=patch,
        num_layers=layers,
        num_heads=heads or width // 64,
        hidden_dim=width,
        mlp_dim=2 * width,
        num_classes=labels,
        **changes,
    )
    for parameter in model.parameters():  # its head and its positions begin at nearly zero
        if parameter.dim() >= 2:
            torch.nn.init.normal_(parameter, std=0.1)
        else:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model.eval()


def save(content, path):
    torch.save(content, path)
    return path


def converted(source, folder, labels=LABELS, **settings):
    convert(source, folder, labels=labels, front_end=tiny_front_end(), **settings)
    return folder


def logits_of(model, batch):
    with torch.no_grad():
        return model(torch.from_numpy(np.repeat(batch[:, None], 3, axis=1)))


def batch(size=64):
    return np.random.default_rng(1).uniform(-1, 1, (3, size, size)).astype(np.float32)


@pytest.mark.parametrize(
    "sizes", [{}, {"width": 64, "patch": 32}, {"width": 192, "layers": 3, "labels": 3}]
)
def test_equals_torchvision(tmp_path, sizes):
    model = torchvision_model(**sizes)
    labels = LABELS[: sizes.get("labels", 4)]
    folder = converted(save(model.state_dict(), tmp_path / "vit.pth"), tmp_path / "out", labels)
    expected = logits_of(model, batch())
    assert expected.std() > 0.1

    from transformers import ViTForImageClassification

    ours = ViTForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    np.testing.assert_allclose(logits_of(lambda x: ours(x).logits, batch()), expected, atol=1e-5)
    log_probs = ViT(folder, device="cpu", precision="float32").predict(batch()).log_probs
    np.testing.assert_allclose(log_probs, torch.log_softmax(expected, dim=-1), atol=1e-5)


def test_heads_of_another_size_are_stated(tmp_path):
    model = torchvision_model(heads=8)
    source = save(model.state_dict(), tmp_path / "vit.pth")
    folder = converted(source, tmp_path / "out", heads=8)
    log_probs = ViT(folder, device="cpu", precision="float32").predict(batch()).log_probs
    expected = torch.log_softmax(logits_of(model, batch()), dim=-1)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_heads_must_divide_the_width(tmp_path):
    source = save(torchvision_model().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="3 heads do not divide"):
        converted(source, tmp_path / "out", heads=3)


def test_the_converted_checkpoint_is_complete(tmp_path):
    source = save(torchvision_model().state_dict(), tmp_path / "vit.pth")
    folder = converted(source, tmp_path / "new" / "folder", unknown_threshold=0.25)
    checkpoint = load_checkpoint(str(folder))
    assert checkpoint.labels == LABELS
    assert checkpoint.unknown_threshold == 0.25
    assert checkpoint.embedding_size == 128
    assert load_front_end(folder) == tiny_front_end()
    assert not list(folder.glob("*.bin"))
    assert json.loads((folder / "config.json").read_text())["label2id"]["pop"] == 2


def test_equal_sources_give_equal_fingerprints(tmp_path):
    source = save(torchvision_model().state_dict(), tmp_path / "vit.pth")
    first, second = (load_checkpoint(str(converted(source, tmp_path / x))) for x in "ab")
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_wrapped_in_a_training_programs_dictionary(tmp_path, key):
    state = torchvision_model().state_dict()
    found = read_state_dict(save({key: state, "epoch": 3}, tmp_path / "vit.pth"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_prefix_of_data_parallel_training(tmp_path):
    model = torchvision_model()
    source = save(torch.nn.DataParallel(model).state_dict(), tmp_path / "vit.pth")
    assert all(name.startswith("module.") for name in torch.load(source, weights_only=True))
    folder = converted(source, tmp_path / "out")
    log_probs = ViT(folder, device="cpu", precision="float32").predict(batch()).log_probs
    expected = torch.log_softmax(logits_of(model, batch()), dim=-1)
    np.testing.assert_allclose(log_probs, expected, atol=1e-5)


def test_names_of_older_torchvision(tmp_path):
    state = torchvision_model().state_dict()
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in state.items()
    }
    assert old.keys() != state.keys()
    new_folder = converted(save(state, tmp_path / "new.pth"), tmp_path / "new")
    old_folder = converted(save(old, tmp_path / "old.pth"), tmp_path / "old")
    answers = [
        ViT(folder, device="cpu", precision="float32").predict(batch()).log_probs
        for folder in (new_folder, old_folder)
    ]
    np.testing.assert_array_equal(*answers)


# What is refused


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_malicious_pickle_is_refused_without_running(tmp_path, writer):
    written = tmp_path / "written-by-the-pickle"
    source = tmp_path / "vit.pth"
    content = {"heads.head.weight": Booby(written)}
    if writer == "torch":
        torch.save(content, source)
    else:
        source.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match="not a file of tensors alone"):
        converted(source, tmp_path / "out")
    assert not written.exists()
    assert not (tmp_path / "out").exists()
    if writer == "torch":
        opened = torch.load(source, weights_only=False)
    else:
        opened = pickle.loads(source.read_bytes())
    opened["heads.head.weight"].close()
    assert written.exists()  # the trap works


def test_a_whole_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="not the model"):
        converted(save(torchvision_model(), tmp_path / "vit.pth"), tmp_path / "out")


def test_a_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        converted(tmp_path / "nowhere.pth", tmp_path / "out")


@pytest.mark.parametrize("length", [0, 1, 7, 100, 5_000])
def test_a_damaged_file(tmp_path, length):
    source = save(torchvision_model(width=64).state_dict(), tmp_path / "vit.pth")
    whole = source.read_bytes()
    random = np.random.default_rng(length).bytes(length)
    for content in (whole[:length], random, b"\x80\x02" + random, whole[:-length]):
        source.write_bytes(content)
        with pytest.raises(CheckpointError):
            converted(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content",
    [{}, [], torch.zeros(3), {"epoch": 3}, {"heads.head.weight": 3}, {"state_dict": {}}],
    ids=str,
)
def test_tensors_that_are_no_state_dict(tmp_path, content):
    with pytest.raises(CheckpointError):
        converted(save(content, tmp_path / "vit.pth"), tmp_path / "out")


@pytest.mark.parametrize("labels", [LABELS[:3], (*LABELS, "jazz"), ()])
def test_wrong_number_of_labels(tmp_path, labels):
    source = save(torchvision_model().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=f"4 logits, but {len(labels)} labels"):
        converted(source, tmp_path / "out", labels)
    assert not (tmp_path / "out").exists()


def test_a_head_of_two_layers(tmp_path):
    source = save(torchvision_model(representation_size=32).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="2 linear layers"):
        converted(source, tmp_path / "out")


def test_another_architecture(tmp_path):
    from torchvision.models import resnet18, swin_t

    for name, model in (("resnet", resnet18(num_classes=4)), ("swin", swin_t(num_classes=4))):
        source = save(model.state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(CheckpointError):
            converted(source, tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    [
        "class_token",
        "conv_proj.weight",
        "encoder.pos_embedding",
        "encoder.ln.bias",
        "encoder.layers.encoder_layer_0.mlp.0.weight",
        "encoder.layers.encoder_layer_1.self_attention.in_proj_weight",
        "heads.head.weight",
        "heads.head.bias",
    ],
)
def test_a_missing_tensor(tmp_path, name):
    state = torchvision_model().state_dict()
    del state[name]
    with pytest.raises(CheckpointError):
        converted(save(state, tmp_path / "vit.pth"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tensor_too_many(tmp_path):
    state = torchvision_model().state_dict() | {"encoder.stranger.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match=r"encoder\.stranger\.weight"):
        converted(save(state, tmp_path / "vit.pth"), tmp_path / "out")


def test_images_of_another_size_than_the_front_ends(tmp_path):
    source = save(torchvision_model(size=96).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match=r"\(96, 96\).*\(64, 64\)"):
        converted(source, tmp_path / "out")


@pytest.mark.parametrize("threshold", [-0.1, 1.0, float("nan")])
def test_threshold_out_of_range(tmp_path, threshold):
    source = save(torchvision_model().state_dict(), tmp_path / "vit.pth")
    with pytest.raises(CheckpointError, match="unknown_threshold"):
        converted(source, tmp_path / "out", unknown_threshold=threshold)
