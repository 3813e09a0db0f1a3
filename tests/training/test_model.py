"""Models by name: what they return in training, and how many samples they need at once."""

import numpy as np
import pytest
import torch
from support.runs import train_here
from torch import nn

from kakurenbo_hpc.config.job import Model, read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.data import DATASETS
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.engine.set_up import _find_single_sample, _smallest_part
from kakurenbo_hpc.errors import JobError
from kakurenbo_hpc.local_data.deal_local import positions
from kakurenbo_hpc.order.deal import _cut
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.training.model import build_model, needs_two_samples


class TwoHeads(nn.Module):
    """Logits, and in training those of an auxiliary head beside them."""

    def __init__(self, n_classes, channels):
        super().__init__()
        self.head = nn.LazyLinear(n_classes)

    def forward(self, images):
        logits = self.head(images.flatten(1))
        return (logits, logits) if self.training else logits


class NormalisedVector(nn.Module):
    """BatchNorm with one value per channel and sample, and dropout."""

    def __init__(self, n_classes, channels):
        super().__init__()
        self.body = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(channels, n_classes),
        )

    def forward(self, images):
        return self.body(images)


def build(name, shape=(3, 32, 32), **options):
    return build_model(Model(name=name, options=options), 5, shape, 0)


def test_googlenet_is_trained_on_its_logits_alone():
    network = build("googlenet", init_weights=False)
    assert network.aux1 is None and network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(
        JobError, match="for two inputs in training is of type GoogLeNetOutputs, .*auxiliary heads"
    ):
        build("googlenet", (3, 96, 96), aux_logits=True, init_weights=False)


@pytest.mark.parametrize(
    ("name", "options", "n_parameters"),
    [
        ("cifar_resnet", {"depth": 18}, 11_173_962),
        ("cifar_densenet", {}, 1_000_618),
        ("lenet", {}, 62_006),
        ("wide_resnet", {}, 36_479_194),
        ("pyramidnet", {"alpha": 84}, 3_904_446),
        ("pyramidnet", {"depth": 164, "alpha": 270, "bottleneck": True}, 27_216_021),
        # Without the convolutions that pytorch-cifar, 2,296,922, has in its shortcuts.
        ("cifar_mobilenet_v2", {}, 2_236_682),
    ],
)
def test_networks_for_small_images_have_as_many_parameters_as_published(name, options, n_parameters):
    network = build_model(Model(name=name, options=options), 10, (3, 16, 16), 0)
    assert sum(p.numel() for p in network.parameters()) == n_parameters


def test_layers_that_a_network_cannot_have_are_told():
    for name, options in (("wide_resnet", {"depth": 27}), ("pyramidnet", {"depth": 111})):
        with pytest.raises(JobError, match=r"depth is \d+, but must be 6 n"):
            build(name, **options)


@pytest.mark.parametrize(
    ("name", "origin"),
    [("resnet18", "timm"), ("timm/resnet18", "timm"), ("torchvision/resnet18", "torchvision")],
)
def test_a_network_is_of_the_library_that_its_name_says(name, origin):
    assert type(build(name)).__module__.startswith(f"{origin}.models")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision/resnet19", "torchvision has no resnet19; did you mean resnet1"),
        ("torchvison/resnet18", "model.name is 'torchvison/resnet18', which is unknown"),
        ("resnet18d2", "which is unknown; did you mean resnet18d"),
    ],
)
def test_a_network_that_no_library_has_is_told(name, message):
    with pytest.raises(JobError, match=message):
        build(name)


def test_batchnorm_momentum_is_torchs():
    network = build_model(Model(name="resnet18", batchnorm_momentum=0.01), 5, (3, 32, 32), 0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.01}


def test_two_outputs_in_training_are_refused():
    with pytest.raises(JobError, match="for two inputs in training is of type tuple, .*auxiliary heads off"):
        build(f"{__name__}:TwoHeads")


def test_a_trial_leaves_statistics_and_draws_as_they_were():
    network = build(f"{__name__}:NormalisedVector")
    assert network.training and network.body[1].num_batches_tracked == 0
    draws = torch.get_rng_state()
    assert needs_two_samples(network, (3, 32, 32), "cpu")
    assert torch.equal(torch.get_rng_state(), draws) and (network.body[1].running_mean == 0).all()


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_batchnorm_over_pixels_takes_one_sample(norm):
    assert not needs_two_samples(build("small_cnn", norm=norm), (3, 32, 32), "cpu")


@pytest.mark.parametrize(
    ("n", "hidden", "batch", "n_parts"),
    [
        (1437, 0.3, 60, 30),
        (100, 0.5, 7, 2),
        (50, 0.9, 9, 3),
        (37, 0.0, 5, 2),
        (240, 0.3, 4, 2),
        (60, 1.0, 6, 2),
    ],
)
def test_the_fewest_samples_of_a_part_are_those_of_all_numbers_that_may_be_hidden(n, hidden, batch, n_parts):
    fewest = n
    for left in range(round(n * (1 - hidden)) or batch, n + 1):
        steps = -(-left // batch)
        sizes = [_cut(left, steps, i + 1) - _cut(left, steps, i) for i in range(steps)]
        fewest = min(
            fewest,
            *(_cut(size, n_parts, p + 1) - _cut(size, n_parts, p) for size in sizes for p in range(n_parts)),
        )
    assert _smallest_part(n, hidden, batch, n_parts) == fewest


@pytest.mark.parametrize("n_each", [(7, 7, 7), (8, 8, 7), (5, 4), (3, 4, 4, 3)])
def test_parts_of_node_local_batches_are_as_large_as_shared_ones(n_each):
    """Places hold equally many visible samples up to one, so that the same bound holds."""
    n, own = sum(n_each), [positions(np.array(n_each), rank) for rank in range(len(n_each))]
    for global_batch in range(len(n_each), n):
        steps = -(-n // global_batch)
        cuts = [_cut(n, steps, step) for step in range(steps + 1)]
        fewest = min(np.diff(np.searchsorted(rank, cuts)).min() for rank in own)
        assert fewest >= min(np.diff(cuts)) // len(n_each)


DROP = "selection={method: selective_backprop, leftover: drop"


@pytest.mark.parametrize(
    ("selection", "sets", "said"),
    [
        ("selection.method=kakurenbo", [], None),
        ("selection.method=kakurenbo", ["data.placement=local"], None),
        ("selection.method=iswr", [], None),
        ("selection.method=iswr", ["data.placement=local"], "data.placement is local, where iswr can leave"),
        ("selection.method=selective_backprop", [], "selective_backprop can leave one to a rank, as it"),
        ("selection.method=pdd", [], "pdd can leave one to a rank, as it"),
        (DROP + "}", [], None),
        (DROP + "}", ["training.global_batch=8"], "a global batch of 8 in 8 parts"),
        (DROP + ", selection_batch: 4, reuse_forward: true}", [], "4 candidates on 4 ranks can leave"),
        (DROP + ", selection_batch: 4}", [], None),
    ],
)
def test_who_may_train_on_one_sample_is_known_at_the_start(selection, sets, said):
    overrides = [selection, "training.accumulate=2", "training.global_batch=64", *sets]
    job = read_job(find_job("digits_everything"), overrides, DATASETS, METHODS)
    found = _find_single_sample(job, job.selection, 1437, job.training.batch(4), 4)
    assert found is None if said is None else found.startswith(said)


def test_a_queue_that_may_end_with_one_sample_is_refused_before_the_first_epoch(tmp_path):
    sets = [f"model={{name: '{__name__}:NormalisedVector'}}", "training.global_batch=3"]
    with pytest.raises(JobError, match="whose BatchNorm needs two samples at once, but selective_backprop "):
        train_here(
            "digits_everything", [*sets, "selection.method=selective_backprop"], tmp_path, SerialComm()
        )
