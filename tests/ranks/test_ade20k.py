"""The ADE20K job on files of the original layout: every part of it small, and nightly at its full size."""

import warnings
from importlib.util import find_spec

import pytest
from support.original_formats import write_ade20k
from support.runs import lines, meet, train_here

from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DONE, SampleError

if find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation-models-pytorch is not installed", allow_module_level=True)

JOB = "infobatch/upernet_ade20k"
STEPS = "{random_scale: {shorter: 64}}, {random_crop: {size: 64, max_share: 0.75}}, flip"
SETS = [
    "data.workers=0",
    f"data.augmentation=[{STEPS}, photometric_distortion, {{normalize: imagenet}}]",
    "data.evaluation=[{resize: 64}, {normalize: imagenet}]",
    "training.global_batch=4",
    "training.iterations=2",
]
SMALL = "model.options={encoder: resnet18, width: 16}"
# Without weights, which would be downloaded; two samples at least for each rank, whatever is hidden.
FULL = ["model.options={encoder: resnet50}", "training.global_batch=8"]


def train(data, directory, comm, *more):
    return train_here(JOB, [*SETS, f"data.path={data}", *more], directory, comm)


@pytest.mark.unit
def test_two_steps_of_a_small_network(tmp_path):
    data = write_ade20k(tmp_path, 8, 3)
    assert train(data, tmp_path / "run", SerialComm(), SMALL) == DONE
    [line] = lines(tmp_path / "run")
    assert (line["steps"], line["n_backward"], line["n_nan"]) == (2, 8, 0)
    assert 0 <= line["val_iou_corpus"] <= 1 and line["val_loss"] > 0


@pytest.mark.unit
def test_a_bad_mask_ends_the_run_with_its_name(tmp_path):
    data = write_ade20k(tmp_path, 8, 3)
    mask = data / "annotations/training/ADE_train_00000005.png"
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(SampleError, match="ADE_train_00000005.png: cannot be read as an image"):
        train(data, tmp_path / "run", SerialComm(), SMALL)


@pytest.mark.nightly
@pytest.mark.ranks(2, limit_s=600)
def test_two_steps_of_the_jobs_own_network_on_two_ranks(comm, tmp_path):
    if comm.rank == 0:
        write_ade20k(tmp_path, 16, 3)
    meet(comm)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match")  # of 1 x 1 convolutions
        assert train(tmp_path / "ADEChallengeData2016", tmp_path / "run", comm, *FULL) == DONE
    meet(comm)
    [line] = lines(tmp_path / "run")
    assert (line["steps"], line["n_backward"], line["n_nan"]) == (2, 16, 0)
