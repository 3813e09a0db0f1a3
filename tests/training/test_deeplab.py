"""DeepCAM's network: shapes, sizes, and batches of one image."""

import importlib

import pytest
import torch
from torch import nn

from kakurenbo_hpc.config.job import Model
from kakurenbo_hpc.core.torchvision_compat import timm, torchvision_models
from kakurenbo_hpc.training.deeplab import DeepLab, _ExitBlock, _Pyramid, _XceptionBlock
from kakurenbo_hpc.training.model import build_model


def build(shape=(16, 32, 48), **options):
    return build_model(Model(name="deepcam_deeplabv3plus", options=options), 3, shape, 0, shape[1:])


def size(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_one_image_in_train_mode_gives_every_parameter_a_gradient(norm):
    model = build(width=0.05, middle=1, norm=norm)
    output = model.train()(torch.randn(1, 16, 32, 48))
    assert output.shape == (1, 3, 32, 48)
    output.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    kinds = {type(m) for m in model.modules() if isinstance(m, nn.GroupNorm | nn.BatchNorm2d)}
    assert (
        not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
        if norm == "group"
        else nn.GroupNorm not in kinds
    )


def test_the_papers_width_is_large_and_a_small_one_small():
    with torch.device("meta"):
        whole = DeepLab(3, 16)
    assert 55e6 < size(whole) < 58e6
    assert size(build(width=0.125, middle=2)) < size(whole) / 50


def test_an_images_logits_do_not_depend_on_its_batch_with_group_norm():
    model = build(width=0.05, middle=1, norm="group").train()
    images = torch.randn(3, 16, 32, 48)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.bfloat16, 0.2), (torch.float16, 0.025)]
)  # of 8 and 11 bits, by some 40 layers
def test_half_precision_is_close(dtype, error):
    model = build(width=0.05, middle=1, norm="group").eval()
    image = torch.randn(2, 16, 32, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        half = model(image).float()
    with torch.no_grad():
        exact = model(image)
    assert (half - exact).norm() < error * exact.norm()


def their_block(*arguments, **options):
    timm()
    block = importlib.import_module("timm.models.xception_aligned").XceptionModule
    return block(*arguments, norm_layer=nn.BatchNorm2d, **options)


def their_pyramid(n_in, n_out):
    pyramid = torchvision_models().segmentation.deeplabv3.ASPP(n_in, [6, 12, 18], n_out)
    pyramid.convs[-1][1], pyramid.convs[-1][2] = nn.Conv2d(n_in, n_out, 1), nn.Identity()
    pyramid.project[-1] = nn.Identity()
    return pyramid


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: _XceptionBlock(8, [16, 16, 24], stride=2), lambda: their_block(8, [16, 16, 24], stride=2)),
        (lambda: _XceptionBlock(8, [8, 8, 8]), lambda: their_block(8, [8, 8, 8])),
        (
            lambda: _ExitBlock(8, [16, 16, 24]),
            lambda: their_block(8, [16, 16, 24], dilation=2, no_skip=True, start_with_relu=False),
        ),
        (lambda: _Pyramid(8, 16), lambda: their_pyramid(8, 16)),
    ],
)
def test_blocks_are_those_of_timm_and_torchvision_to_the_bit(ours, theirs):
    built = []
    for build_block in (ours, theirs):
        torch.manual_seed(3)
        built.append(build_block())
        after = torch.rand(1)
        built.append(after)
    mine, my_next, same, its_next = built
    assert torch.equal(my_next, its_next)  # what is drawn afterwards, in the layers that follow
    state, expected = mine.state_dict(), same.state_dict()
    assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)
    images = torch.randn(2, 8, 16, 24)
    assert torch.equal(mine(images), same(images))
