"""Reading, scaling, layout and precision in one pass: the bits of h5py and the MLPerf HPC reference's
arithmetic, rounded once.
"""

import fcntl
import itertools
import os
import pickle

import h5py
import numpy as np
import pytest
import torch
from support.data_files import fields, write_deepcam

from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data import retry as patience
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.data.datasets import deepcam
from kakurenbo_hpc.data.hdf5 import blocks
from kakurenbo_hpc.data.loader import Loader, plain_micro_batches
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.errors import DataError

CPU, N = torch.device("cpu"), 5
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = [(8, 12, 4), (1, 1, 1), (7, 11, 3), (1, 263, 16), (97, 121, 16)]  # 263 is prime, and more than 256
STATS = {"float32": np.float32, "float64": np.float64}


def opened(root, **options):
    return open_data(DATASETS["deepcam"](name="deepcam", path=str(root), **options), 0, SerialComm()).train


def asked(*ids):
    return ReadRequest(np.array(ids, np.int64), np.zeros(len(ids), np.int32), epoch=0, augment=False)


def written(root, shape, stats=np.float32, form="contiguous"):
    for seed, part in enumerate(("validation", "train")):
        inputs, masks = fields(N, seed, shape)
        write_deepcam(root, inputs, masks, form, part)
    low, high = inputs.min((0, 1, 2)).astype(stats), inputs.max((0, 1, 2)).astype(stats) + 1 / 3
    with h5py.File(root / "stats.h5", "w") as file:
        file["climate/minval"], file["climate/maxval"] = low, high.astype(stats)
    return root


def by_the_reference(root):
    """Return inputs (N, C, H, W) and masks of CamDataset (mlcommons/hpc), all channels, transposed."""
    with h5py.File(root / "stats.h5") as f:
        data_shift = f["climate"]["minval"][...]
        data_scale = 1.0 / (f["climate"]["maxval"][...] - data_shift)
    data_shift = np.reshape(data_shift, (1, 1, -1)).astype(np.float32)
    data_scale = np.reshape(data_scale, (1, 1, -1)).astype(np.float32)
    inputs, masks = [], []
    for path in sorted((root / "train").iterdir()):
        with h5py.File(path) as f:
            data, label = f["climate/data"][...], f["climate/labels_0"][...].astype(np.int64)
        inputs.append(np.transpose(data_scale * (data - data_shift), (2, 0, 1)))
        masks.append(label)
    return torch.from_numpy(np.stack(inputs)), torch.from_numpy(np.stack(masks))


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_are_those_of_h5py_and_the_reference(shape, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 4096)  # several blocks, the last of which is shorter
    root = written(tmp_path, shape)
    inputs, masks = by_the_reference(root)
    past = blocks.can_read_directly(root / "stats.h5")
    for precision, layout, threads, direct in itertools.product(
        DTYPES,
        ("channels_last", "channels_first"),
        (1, 3),
        (False, past),
    ):
        source = opened(root, precision=precision, layout=layout, threads=threads, direct=direct)
        source = pickle.loads(pickle.dumps(source))
        case = f"{precision}, {layout}, {threads} threads, direct {direct}"
        for ids in ([3, 0], [1], [0, 1, 2, 3, 4]):
            [(got, mask)], want = source.stream([asked(*ids)], CPU), inputs[ids].to(DTYPES[precision])
            assert got.dtype == want.dtype and torch.equal(got, want), case
            assert mask.dtype == torch.int64 and torch.equal(mask, masks[ids]), case
            assert all(map(torch.equal, source.__getitems__(asked(*ids)), (got, mask))), case
            memory = torch.contiguous_format if layout == "channels_first" else torch.channels_last
            assert got.is_contiguous(memory_format=memory), case


@pytest.mark.parametrize("form", ["chunked", "big endian"])
@pytest.mark.parametrize("stats", STATS)
def test_what_goes_through_h5py_has_the_same_bits(form, stats, tmp_path):
    root = written(tmp_path, (7, 11, 3), STATS[stats], form)
    inputs, masks = by_the_reference(root)
    for precision, layout in itertools.product(DTYPES, ("channels_last", "channels_first")):
        got, mask = opened(root, precision=precision, layout=layout).__getitems__(asked(4, 1))
        assert torch.equal(got, inputs[[4, 1]].to(DTYPES[precision])) and torch.equal(mask, masks[[4, 1]])


def test_a_quotient_would_differ(tmp_path):
    root = written(tmp_path, (97, 121, 16))
    with h5py.File(root / "stats.h5") as f:
        low, high = f["climate/minval"][...], f["climate/maxval"][...]
    with h5py.File(root / "train" / "data-0000.h5") as f:
        quotient = (f["climate/data"][...] - low) / (high - low)
    [got] = opened(root).__getitems__(asked(0))[0].numpy()
    assert 0.05 < (got != quotient.transpose(2, 0, 1)).mean() < 0.6
    assert np.allclose(got, quotient.transpose(2, 0, 1), rtol=1e-6)


def test_a_constant_channel_is_shifted_alone(tmp_path):
    root = written(tmp_path, (8, 12, 4))
    with h5py.File(root / "stats.h5", "r+") as f:
        f["climate/maxval"][1] = f["climate/minval"][1]
        low = f["climate/minval"][1]
    with h5py.File(root / "train" / "data-0000.h5") as f:
        want = f["climate/data"][..., 1] - low
    assert np.array_equal(opened(root).__getitems__(asked(0))[0][0, 1].numpy(), want)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_layers_of_the_same_precision_compute_the_same(precision, tmp_path):
    root = written(tmp_path, (8, 12, 4))
    layer, outputs = torch.nn.Conv2d(4, 3, 3), []
    for inputs in ("fp32", precision):
        with torch.autocast("cpu", dtype=DTYPES[precision]), torch.no_grad():
            outputs.append(layer(opened(root, precision=inputs).__getitems__(asked(0, 3))[0]))
    assert outputs[0].dtype == DTYPES[precision] and torch.equal(*outputs)


def test_numbers_that_are_not_finite_stay_so_without_a_warning(tmp_path):
    root = written(tmp_path, (8, 12, 4))
    with h5py.File(root / "train" / "data-0002.h5", "r+") as f:
        f["climate/data"][0, :3, 0] = np.nan, np.inf, 3e38
    for precision in DTYPES:
        first = opened(root, precision=precision).__getitems__(asked(2))[0][0, 0, 0, :3].float()
        assert first[0].isnan() and first[1] == torch.inf and first[2] > 1e30


def test_loader_workers_read_the_same(tmp_path):
    root = written(tmp_path, (8, 12, 4))
    want = by_the_reference(root)[0].to(torch.bfloat16)
    loader = Loader(opened(root, precision="bf16", layout="channels_first"), 1, CPU)
    got = torch.cat([batch.input for batch in loader(plain_micro_batches(0, N, 2), 0, False)])
    assert torch.equal(got, want)


def test_past_the_page_cache_nothing_is_left_in_it(tmp_path, monkeypatch):
    """Several requests a file, the last of which ends where the file does, inside a sector."""
    root = written(tmp_path, (97, 121, 16))
    path = root / "train" / "data-0000.h5"
    if not blocks.can_read_directly(path):
        pytest.skip("the file system of the temporary folder lacks O_DIRECT")
    assert path.stat().st_size % 4096
    monkeypatch.setattr(blocks, "_REQUEST", 1 << 16)
    monkeypatch.setattr(patience, "PAUSES", (0.01,))
    flags, read = [], os.preadv
    monkeypatch.setattr(
        blocks.os,
        "preadv",
        lambda handle, *words: flags.append(fcntl.fcntl(handle, fcntl.F_GETFL)) or read(handle, *words),
    )
    source = opened(root, direct=True)
    got, _ = source.__getitems__(asked(0))
    assert torch.equal(got, by_the_reference(root)[0][:1])
    assert len(flags) > 10 and all(flag & os.O_DIRECT for flag in flags)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(DataError, match=r"climate/labels_0 ends 100 bytes early"):
        source.__getitems__(asked(0))


@pytest.mark.parametrize("unit", [1, 12, 10_000])
@pytest.mark.parametrize("offset", [0, 1, 4095, 8192])
def test_blocks_are_the_bytes_of_the_file_wherever_they_begin(offset, unit, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "_REQUEST", 8192)
    monkeypatch.setattr(blocks, "BLOCK", 3000)
    path, n = tmp_path / "file", 60_000
    content = np.random.default_rng(0).bytes(offset + n)
    path.write_bytes(content)
    for direct in {False, blocks.can_read_directly(path)}:
        handle = blocks.open_file(path, direct)
        found = [block.tobytes() for block in blocks.read_blocks(handle, offset, n, unit, direct, "it")]
        os.close(handle)
        assert b"".join(found) == content[offset:]
        assert all(len(block) % unit == 0 for block in found) and len(found) > 5


def test_a_file_system_without_it_is_named(tmp_path, monkeypatch):
    root = written(tmp_path, (8, 12, 4))
    monkeypatch.setattr(deepcam, "can_read_directly", lambda path: False)
    with pytest.raises(
        DataError,
        match=r"data-0000.h5: cannot be read past the page cache, since its file system lacks O_DIRECT; set "
        "data.direct to false",
    ):
        opened(root, direct=True)
    assert opened(root, direct=False)
