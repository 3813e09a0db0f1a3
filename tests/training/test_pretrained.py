"""Weights in and out of a network: what is loaded, what is left out, and whose weights are refused."""

import pytest
import torch
from safetensors.torch import save_file

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.core.torchvision_compat import timm
from kakurenbo_hpc.errors import UserError
from kakurenbo_hpc.training.model import build_model
from kakurenbo_hpc.training.pretrained import load_weights, read_weights


def network(n_classes=5, seed=0, name="small_cnn", shape=(1, 8, 8), **options):
    return build_model(Model(name=name, options=options), n_classes, shape, seed)


def kept(path, model):
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def load(model, path, name="small_cnn", skip=()):
    return load_weights(model, read_weights(path), Model(name=name, weights_from=str(path), skip=list(skip)))


@pytest.mark.parametrize(
    ("n_classes", "skip", "left_out"), [(5, (), None), (7, (), "head"), (5, ("head",), "head")]
)
def test_weights_are_loaded_but_for_what_is_skipped_or_of_another_shape(tmp_path, n_classes, skip, left_out):
    before, after = network(seed=1), network(n_classes, seed=2)
    head = after.head.weight.clone()
    told = load(after, kept(tmp_path / "model.safetensors", before), skip=skip)
    assert told.endswith("model.safetensors" if left_out is None else f", all but {left_out}")
    assert torch.equal(after.features[0][0].weight, before.features[0][0].weight)
    assert torch.equal(after.head.weight, before.head.weight if left_out is None else head)


@pytest.mark.parametrize(
    ("other", "skip", "message"),
    [
        (
            {"name": "lenet", "shape": (1, 32, 32)},
            (),
            r"m.safetensors: lacks features.0.0.weight, and \d+ more",
        ),
        ({"width": 8}, (), "m.safetensors: features.0.0.weight is of shape "),
        ({}, ("fc",), "model.skip names fc, but small_cnn has no layer of that name"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, other, skip, message):
    path = kept(tmp_path / "m.safetensors", network(**other))
    with pytest.raises(UserError, match=message):
        load(network(), path, skip=skip)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "m.safetensors: not found; model.weights_from must name a run or a file"),
        (b"PK\3\4 a pickle of torch", "m.safetensors: cannot be read as safetensors"),
        ("folder", "m.safetensors: holds no valid checkpoint; name a run directory that has one"),
    ],
)
def test_what_holds_no_weights_is_told(tmp_path, content, message):
    path = tmp_path / "m.safetensors"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_weights(path)


def test_positions_of_a_transformer_are_resampled_to_another_resolution(tmp_path):
    small = {"embed_dim": 24, "depth": 1, "num_heads": 2, "patch_size": 8}
    name = "vit_tiny_patch16_224"
    before = network(name=name, shape=(3, 32, 32), img_size=32, seed=1, **small)
    after = network(7, name=name, shape=(3, 48, 48), img_size=48, seed=2, **small)
    told = load(after, kept(tmp_path / "m.safetensors", before), name)
    assert told.endswith(", all but head")
    expected = timm().layers.resample_abs_pos_embed(before.pos_embed, [6, 6], num_prefix_tokens=1)
    torch.testing.assert_close(after.pos_embed, expected)
    assert torch.equal(after.blocks[0].mlp.fc1.weight, before.blocks[0].mlp.fc1.weight)
