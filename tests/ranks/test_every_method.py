"""Every method of the table, in variants, trains from a job on real ranks; resumed after an epoch, or left
between two steps of the last one, it is the run that was not interrupted.
"""

import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.batch_runs import metrics
from support.runs import ledger, lines, same_parameters, train_here

from kakurenbo_hpc.config.job import Model, read_job
from kakurenbo_hpc.config.package_files import find_job
from kakurenbo_hpc.core.rng import key, one
from kakurenbo_hpc.data import DATASETS, open_data
from kakurenbo_hpc.data.dataset import ReadRequest
from kakurenbo_hpc.distributed.comm import SerialComm
from kakurenbo_hpc.distributed.preemption import Preemption
from kakurenbo_hpc.engine.score import score
from kakurenbo_hpc.errors import DONE, REQUEUE
from kakurenbo_hpc.selection import METHODS
from kakurenbo_hpc.selection.batch_level import BatchMethod
from kakurenbo_hpc.selection.subsets import SCORES as SCORING
from kakurenbo_hpc.selection.subsets.recipe import read_recipe
from kakurenbo_hpc.training.model import build_model

pytestmark = pytest.mark.ranks(2)
EPOCHS = 3
VARIANTS = {
    "kakurenbo": ["", "refresh_mode=train drop_top=0.02 lr_fraction=ceiling"],
    "infobatch": ["", "exact_share=true prune=above"],
    "iswr": ["", "scores=lagging reweight=true"],
    "sample_importance": [
        "",
        "online=step",
        "level=class unbiased=true",
        "metric=grad_norm gradient=full online=epoch weights_pass=fresh pretrain_epochs=0",
    ],
    "static": ["", "keep=lowest class_balance=true"],
    "ucb": ["every=1"],
    "epsilon_greedy": ["every=1"],
    "selective_backprop": [
        "",
        "stale=2 prime_epochs=1 lr_clock=backward",
        "reuse_forward=true selection_batch=120 history_scope=global",
        "calculator=random selection_precision=bf16",
        "pipeline=true leftover=drop",
    ],
    "kath18": ["", "score=loss reweight=false presample=2 force=true"],
    "grad_match": ["every=2 warm_start=0.4", "every=1 per=batch batch=32 gradient=full damping=0"],
    "craig": ["every=1 gradient=bias"],
    "glister": ["every=1 greedy=rgreedy rounds=3", "every=1 greedy=rgreedy class_balance=false"],
    "ies": ["threshold=0.5"],
    "pdd": ["threshold=0.9", "variant=smrd threshold=0", "variant=srd gamma=0.5"],
    "rho_loss": ["kept=0.5", "kept=0.9 scope=global selection_mode=train"],
}
TINY = [
    "training={epochs: 3, global_batch: 30, lr: 0.01}",
    "data={name: visual_atoms, classes: 3, instances: 10, validation: 5, pixels: 16}",
    "model.options={width: 2}",
]
OF_DIGITS = ("el2n", "grand", "forgetting", "random", "irreducible")  # scored by the fixture
SCORES = {"static": "el2n", "rho_loss": "irreducible"}
CASES = [
    pytest.param(method, number, marks=[pytest.mark.nightly] * (number > 0))
    for method in METHODS
    for number in range(len(VARIANTS.get(method, [""])))
]


@pytest.fixture(scope="module")
def scored(module_comm, tmp_path_factory):
    """A folder with the scores of all samples of the digits."""
    folder = tmp_path_factory.mktemp("scores")
    job = read_job(find_job("digits_everything"), [], DATASETS, METHODS)
    for name, epochs, options in [
        ("el2n", 1, {}),
        ("grand", 0, {}),
        ("grand", 0, {"last_layer": True}),
        ("forgetting", 3, {}),
        ("random", 0, {}),
        ("irreducible", 1, {"hold_out": 0.5}),
    ]:
        path = folder / f"{name}{'_last_layer' * ('last_layer' in options)}.h5"
        score(read_recipe(name, epochs, 1, options), job, path, module_comm)
    return folder


@pytest.fixture(scope="module")
def steps():
    """Counts the steps of each epoch, and stops all ranks after step ``stop_after`` of one, 0 for none."""
    steps = SimpleNamespace(so_far=0, of_last_epoch=0, stop_after=0)

    def should_stop(preemption):
        steps.so_far += 1
        preemption.why = "the drill" if steps.so_far == steps.stop_after else ""
        return bool(preemption.why)

    def should_stop_now(preemption):
        steps.so_far, steps.of_last_epoch = 0, steps.so_far
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preemption, "should_stop", should_stop)
        patch.setattr(Preemption, "should_stop_now", should_stop_now)
        yield steps


@pytest.fixture(scope="module")
def trained(module_comm, tmp_path_factory, scored, steps):
    """Trains a variant of a method, once: its run directory, and the steps of its last epoch. Collective."""
    folder, runs = tmp_path_factory.mktemp("methods"), {}

    def train(method, number=0):
        if (method, number) not in runs:
            directory = folder / f"{method}_{number}"
            assert (
                train_here("digits_everything", sets(method, number, scored), directory, module_comm) == DONE
            )
            runs[method, number] = directory, steps.of_last_epoch
        return runs[method, number]

    return train


def sets(method, number, scored):
    options = [f"selection.{option}" for option in VARIANTS.get(method, [""])[number].split()]
    if method in SCORES:
        options.append(f"selection.scores={scored / SCORES[method]}.h5")
    what = [f"training.epochs={EPOCHS}", "training.global_batch=120", "record.checkpoint_every=1"]
    return [*what, "record.ledger=true", f"selection={{method: {method}}}", *options]


@pytest.mark.parametrize(("method", "number"), CASES)
def test_a_method_learns_and_an_interrupted_run_is_the_run_that_was_not(
    method, number, trained, scored, steps, comm, tmp_path
):
    (run, n_steps), again = trained(method, number), tmp_path / "again"
    told, job = lines(run), ("digits_everything", sets(method, number, scored), again, comm)
    assert max(line["val_accuracy"] for line in told) > 0.15, "ten classes"
    assert all(line["n_backward"] > 0 and line["steps"] > 0 for line in told)
    if issubclass(METHODS[method], BatchMethod):
        check_passes_and_seconds(told)
    if comm.rank == 0:
        shutil.copytree(run, again)
        shutil.rmtree(again / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
    comm.barrier()
    assert n_steps or "reuse_forward=true" in VARIANTS[method][number], "a graph alone cannot be put down"
    if n_steps:
        steps.so_far, steps.stop_after = 0, 1 + one(key(number, method)) % n_steps
        assert train_here(*job, resume=True) == REQUEUE
    steps.so_far = steps.stop_after = 0
    assert train_here(*job, resume=True) == DONE
    if comm.rank == 0:
        assert same_parameters(run, again, EPOCHS - 1)
        assert metrics(run) == metrics(again)


def check_passes_and_seconds(told):
    """Fail where a batch-level method does not count its passes, or does not split its seconds."""
    for line in told:
        assert line["n_forward"] == line["n_forward_select"] + line["n_backward"] or line["n_hidden"] == 0
        assert 1437 <= line["n_forward"] <= 1437 + line["n_backward"] or line["n_hidden"] > 0
        stages = ("plan", "selection_forward", "refresh")
        assert line["seconds"]["select"] == pytest.approx(sum(line["seconds"][part] for part in stages))
        parts = ("selection_forward", "training_forward", "backward", "other")
        assert sum(line["seconds"][part] for part in parts) == pytest.approx(
            line["seconds"]["train"], rel=0.01
        )


def test_a_window_of_losses_is_resumed_on_another_number_of_ranks(trained, scored, comm, comm_of, tmp_path):
    (run, _), again = trained("ies"), tmp_path / "again"
    if comm.rank == 0:
        shutil.copytree(run, again)
        shutil.rmtree(again / "checkpoints" / f"epoch_{EPOCHS - 1:04d}")
        shutil.rmtree(again / "ledger")
    comm.barrier()
    job = ("digits_everything", sets("ies", 0, scored), again, comm_of(1))
    assert train_here(*job, resume=True) in (DONE, None)
    comm.barrier()
    one, two = ledger(again, EPOCHS - 1), ledger(run, EPOCHS - 1)
    assert two["losses"].shape == (1437, 5) and two["losses"].dtype == np.float32
    assert np.isnan(two["losses"][:, :3]).all() and (two["losses"][:, 4] == two["loss"]).all()
    assert all(np.array_equal(one[name], two[name], equal_nan=True) for name in ("losses", "n_losses"))
    assert (two["n_losses"] == EPOCHS - 1).all()


@pytest.mark.parametrize("method", ["grad_match", "craig", "glister"])
def test_an_online_subset_and_its_weights_stand_in_the_ledger(method, trained):
    """GRAD-MATCH trains an epoch on everything, chooses, and keeps its subset; the others choose twice."""
    run, _ = trained(method)
    told, rows = lines(run), [ledger(run, epoch) for epoch in range(EPOCHS)]
    is_kept = method == "grad_match"
    assert [line["n_forward_select"] for line in told] == [0, 1437, 0 if is_kept else 1437]
    assert np.isnan(rows[0]["subset_weight"]).all() and told[0]["n_hidden"] == (0 if is_kept else 431)
    for line, of_epoch in zip(told[1:], rows[1:]):
        kept = of_epoch["subset_weight"] > 0
        assert (kept == (of_epoch["train"] > 0)).all() and 1006 <= kept.sum() <= 1016, "floors of ten classes"
        assert line["n_backward"] == kept.sum()
        assert of_epoch["weight"][kept].mean() == pytest.approx(1, rel=1e-5)
    assert (len(np.unique(rows[1]["weight"])) > 1) == (method != "glister")
    assert (rows[1]["subset_weight"] == rows[2]["subset_weight"]).all() == is_kept
    if is_kept:
        assert told[1]["n_filled"] == rows[1]["subset_filled"].sum() == told[2]["n_filled"]


def test_a_window_of_outputs_is_resumed_on_another_number_of_ranks(comm, comm_of, tmp_path):
    """TDDS as a method of training: its columns are as wide as there are classes."""
    tdds = "kakurenbo_hpc.selection.subsets.methods.tdds:Tdds"
    options = [*sets("everything", 0, None)[1:-1], f"selection={{method: '{tdds}', window: 3}}"]
    run, again = tmp_path / "run", tmp_path / "again"
    job = ("digits_everything", ["training.epochs=4", "record.keep=3", *options])
    assert train_here(*job, run, comm) == DONE
    if comm.rank == 0:
        shutil.copytree(run, again)
        for epoch in (2, 3):
            shutil.rmtree(again / "checkpoints" / f"epoch_{epoch:04d}")
        shutil.rmtree(again / "ledger")
    comm.barrier()
    assert train_here(*job, again, comm_of(1), resume=True) in (DONE, None)
    comm.barrier()
    one, two = ledger(again, 3), ledger(run, 3)
    assert two["probabilities"].shape == (1437, 10) and two["changes"].shape == (1437, 2)
    assert (one["changes"][:, 0] == two["changes"][:, 0]).all(), "from before the interruption"
    for name in ("probabilities", "changes", "windows"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-3)


def test_progressive_dropout_steps_as_often_as_everything_on_less_and_less(trained):
    first, second, revision = lines(trained("pdd")[0])
    assert first["steps"] == second["steps"] == revision["steps"] == 12
    assert first["n_backward"] > second["n_backward"] > 0 and first["n_forward_select"] == 1437
    assert revision["n_backward"] == revision["n_forward"] == 1437 and revision["n_forward_select"] == 0


def test_rho_loss_trains_half_of_the_samples_that_have_a_score(trained, scored):
    told, n = lines(trained("rho_loss")[0]), np.isfinite(scores(scored, "irreducible")[0]).sum()
    assert 600 < n < 840, "half of 1437 by a hash"
    assert all(line["n_forward_select"] == n and abs(line["n_backward"] - n / 2) <= 8 for line in told)


def scores(folder, name):
    with h5py.File(folder / f"{name}.h5") as file:
        assert (file["id"][:] == np.arange(1437)).all()
        return file["score"][:], dict(file.attrs), file["label"][:] if "label" in file else None


def test_scores_are_written_for_every_sample_with_what_they_cost(scored):
    el2n, about, label = scores(scored, "el2n")
    assert (0 <= el2n).all() and (el2n <= 2**0.5).all() and len(np.unique(el2n)) > 1000
    assert about["n_forward"] == 2 * 1437 and about["n_backward"] == 1437 and about["seconds"] > 0
    source = open_data(DATASETS["digits"](name="digits"), seed=1, comm=SerialComm()).train
    assert (
        label
        == source.__getitems__(ReadRequest(np.arange(1437), np.zeros(1437, np.int32), 0, False))[1].numpy()
    ).all()
    forgotten, _, _ = scores(scored, "forgetting")
    assert set(np.unique(forgotten)) <= {0, 1, 4}, (
        "in three epochs a sample is forgotten once, or was never learned: 4"
    )
    assert 0 < (forgotten == 0).mean() < 1


@pytest.mark.parametrize("name", [name for name in SCORING.own if name not in OF_DIGITS])
def test_every_other_scoring_method_judges_every_sample_on_two_ranks(name, comm, tmp_path):
    path, shorter = tmp_path / "scores.h5", {"window": 3} if "window" in SCORING[name].model_fields else {}
    method = SCORING[name](method=name, **shorter)
    job = read_job(find_job("digits_everything"), TINY, DATASETS, METHODS)
    info = score(read_recipe(name, method.fewest_epochs, 1, shorter), job, path, comm)
    assert info.n_forward >= info.n == 30
    with h5py.File(path) as file:
        assert file["id"][:].tolist() == list(range(30)) and np.bincount(file["label"]).tolist() == [10] * 3
        assert np.isfinite(file["score"]).all()
        assert ("place" in file) == (info.places != "none") and ("weight" in file) == info.weighted


def test_gradient_norms_of_an_untrained_network_are_those_of_one_pass_a_sample(scored):
    exact, about, _ = scores(scored, "grand")
    last_layer, cheaper, _ = scores(scored, "grand_last_layer")
    assert about["n_backward"] == 1437 and cheaper["n_backward"] == 0
    assert (exact > last_layer).all(), "the last layer is a part of the network"
    model = build_model(Model(name="small_cnn"), 10, (1, 8, 8), seed=1).eval()
    source = open_data(DATASETS["digits"](name="digits"), seed=1, comm=SerialComm()).train
    input, target = source.__getitems__(ReadRequest(np.arange(20), np.zeros(20, np.int32), 0, augment=False))
    for i in range(20):
        model.zero_grad()
        F.cross_entropy(model(input[i : i + 1]), target[i : i + 1]).backward()
        assert exact[i] == pytest.approx(
            torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item(), rel=1e-4
        )


def test_selective_backprop_trains_about_its_selectivity(trained):
    told = lines(trained("selective_backprop", 0)[0])
    assert 0.2 < sum(line["n_backward"] for line in told) / (EPOCHS * 1437) < 0.5, "s is 0.33"
    assert all(line["n_forward"] == 1437 + line["n_backward"] for line in told)


def test_a_stale_epoch_does_not_even_load_what_is_not_chosen(trained):
    prime, selection, stale = lines(trained("selective_backprop", 1)[0])
    assert prime["n_forward"] == prime["n_backward"] == 1437
    assert selection["n_forward"] == 1437 + selection["n_backward"]
    assert stale["n_forward"] == stale["n_backward"] < 1437 and stale["seconds"]["selection_forward"] == 0


def test_a_pipeline_is_a_step_behind_and_leftovers_can_be_dropped(trained):
    plain, ahead = (lines(trained("selective_backprop", number)[0]) for number in (0, 4))
    assert all(one["staleness"] < other["staleness"] for one, other in zip(plain, ahead))
    assert all(line["n_backward"] == 120 * line["steps"] for line in ahead), "full batches"
    assert any(line["n_backward"] < 120 * line["steps"] for line in plain), "a last smaller step"


def test_a_kept_graph_saves_forward_passes(trained):
    told = lines(trained("selective_backprop", 2)[0])
    assert sum(line["n_forward"] for line in told) < sum(1437 + line["n_backward"] for line in told)
