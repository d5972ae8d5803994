"""The fast step computes what the plain one does: memory layout, precision, compiler, dropout masks."""
from __future__ import annotations

import copy
import json
import os
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import train_MeanTeacher
from harness import SHORT
from narrow import make_narrow
from torch import nn

from dataloaders import catalog
from dataloaders.batches.loader import Loader
from dataloaders.batches.store import build_store
from engine import Run, parse
from engine.schedules import Form, ScheduledOptimizer
from networks import build, ema_update, frozen_copy
from networks.compiling import compiled
from networks.dropout import Dropout
from system.devices import keep_freed_memory

SIDE = 32


@pytest.fixture(scope="module")
def batches(tiny_acdc, tmp_path_factory):
    """Fifty batches of the tiny ACDC, as training gets them."""
    source = catalog.open_source(catalog.named("ACDC"), tiny_acdc)
    items = source.items(source.cases("train"))
    half = len(items) // 2
    store = build_store(source, items, [True] * half + [False] * (len(items) - half), "ram", progress=False)
    loader = Loader(store, range(half), range(half, len(items)), batch_size=4, labeled_bs=2, patch_size=(SIDE, SIDE), recipe="rot_flip",
                    seed=1, threads=1)
    made = [loader.batch(t) for t in range(50)]
    loader.close()
    return made


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_narrow_networks():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        make_narrow(patch.setattr)
        yield
    torch.set_num_threads(before)


def curve(batches, steps, *, layout=torch.channels_last, precision="32", compile_it=False, plain=False, dtype=torch.float32):
    """(steps, 2): total loss and consistency of Mean Teacher without dropout and noise, from the same weights.

    plain: torch's own modules, activations out of place, the optimizer and the average parameter by parameter.
    """
    torch.manual_seed(0)
    student = build("unet", in_channels=1, num_classes=4, dropout=0.0)
    if plain:
        for module in student.modules():
            if isinstance(module, nn.LeakyReLU):
                module.inplace = False
    student = student.to(dtype=dtype, memory_format=layout)
    teacher = frozen_copy(student)
    groups = [{"params": list(student.parameters())}]
    optimizer = (torch.optim.SGD(student.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, foreach=False) if plain
                 else Form("sgd").build(groups, 0.01, torch.device("cpu")))
    options = train_MeanTeacher.Method(noise=0.0)
    losses = compiled(train_MeanTeacher.losses, precision, compile_it, torch.device("cpu"))
    rows = []
    for step, given in enumerate(batches[:steps]):
        batch = copy.copy(given)
        batch.images = given.images.to(dtype, memory_format=layout)
        terms = losses(student, teacher, batch, 0.1 * (step + 1), started=True, options=options)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        if plain:
            keep = min(1 - 1 / (step + 1), 0.99)
            for average, value in zip(teacher.parameters(), student.parameters()):
                average.data.mul_(keep).add_(value.data, alpha=1 - keep)
        else:
            ema_update(teacher, student, step, 0.99)
        rows.append([terms["total"].item(), terms["consistency"].item()])
    return np.array(rows)


@pytest.fixture(scope="module")
def ours(batches):
    rows = curve(batches, 50)
    assert rows[-5:, 0].mean() < 0.7 * rows[:5, 0].mean() and (rows[1:, 1] > 0).all(), "it learns, and both terms act"
    return rows


def test_fifty_steps_as_in_the_plain_loop(batches, ours):
    # Sums in another order differ in the last bit, and fifty steps of SGD spread that: by five digits, whatever the precision.
    plain = curve(batches, 50, layout=torch.contiguous_format, plain=True)
    np.testing.assert_allclose(ours[:10], plain[:10], rtol=1e-3)
    np.testing.assert_allclose(ours[:, 0], plain[:, 0], rtol=0.1)


def test_fifty_steps_as_in_the_plain_loop_in_float64(batches):
    fast = curve(batches, 50, dtype=torch.float64)
    plain = curve(batches, 50, dtype=torch.float64, layout=torch.contiguous_format, plain=True)
    np.testing.assert_allclose(fast, plain, rtol=1e-7)


def test_fifty_steps_in_bfloat16(batches, ours):
    half = curve(batches, 50, precision="bf16-mixed")
    assert (half != ours).any()
    np.testing.assert_allclose(half[:, 0], ours[:, 0], rtol=0.1)


def test_losses_are_one_graph(batches):
    torch._dynamo.reset()
    student = build("unet", in_channels=1, num_classes=4, dropout=0.0)
    options = train_MeanTeacher.Method(noise=0.0)
    report = torch._dynamo.explain(train_MeanTeacher.losses)(student, frozen_copy(student), batches[0], torch.tensor(0.1), True, options)
    torch._dynamo.reset()
    assert report.graph_count == 1, report.break_reasons


def test_compiled_steps_are_the_eager_ones(batches, ours, monkeypatch):
    # Traced and differentiated as for inductor, whose kernels take a minute to make; SEMISEG_INDUCTOR=1 takes them.
    if not os.environ.get("SEMISEG_INDUCTOR"):
        monkeypatch.setattr("networks.compiling.torch.compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    rows = curve(batches, 10, compile_it=True)
    torch._dynamo.reset()
    np.testing.assert_allclose(rows, ours[:10], rtol=5e-3)


def test_a_graph_holds_one_pass_of_one_network(monkeypatch):
    """The compiler gives wrong gradients where a network with batch norm passes twice within a graph."""
    made = []
    monkeypatch.setattr("networks.compiling.torch.compile", lambda function: made.append(function) or function)
    network, images = build("unet", in_channels=1, num_classes=4), torch.randn(4, 1, 32, 32)

    def twice(network, images):
        features = network.decode(network.encode(images[:2]))
        return {"total": network(images).mean() + network(images[2:]).mean() + network.head(features).mean()}

    step = compiled(twice, "bf16-mixed", True, torch.device("cpu"))
    for _ in range(2):
        assert step(network, images)["total"].dtype == torch.float32
    assert {function.__name__ for function in made} == {"forward", "encode", "decode", "head"} and len(made) == 4
    assert all(function.__self__ is network for function in made)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_dropout_keeps_the_share_and_the_mean(rate, layout):
    torch.manual_seed(3)
    x = torch.ones(4, 16, 64, 64).contiguous(memory_format=layout).requires_grad_()
    y = Dropout(rate)(x)
    share = (y == 0).float()
    n = y.numel()
    assert abs(share.mean() - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert y[y > 0].unique().numel() == 1 and abs(y[y > 0][0] * (1 - rate) - 1) < 1e-4
    assert y.stride() == x.stride()
    # Neighbours in memory share a draw of the generator; they must not share a fate.
    flat = share.permute(0, 2, 3, 1).flatten() if layout == torch.channels_last else share.flatten()
    for lag in (1, 2, 3, 4, 64):
        both = (flat[:-lag] * flat[lag:]).mean()
        assert abs(both - rate**2) < 6 * (rate**2 * (1 - rate**2) / n) ** 0.5, lag
    (2 * y).sum().backward()
    torch.testing.assert_close(x.grad, 2 * y.detach())


def test_dropout_follows_torchs_seed_and_leaves_evaluation_alone():
    x, layer = torch.ones(2, 3, 5, 7), Dropout(0.3)
    torch.manual_seed(5)
    first, second = layer(x), layer(x)
    torch.manual_seed(5)
    assert torch.equal(layer(x), first) and not torch.equal(first, second)
    assert layer.eval()(x) is x and Dropout(0.0)(x).equal(x) and not Dropout(1.0)(x).any()
    strided = torch.ones(2, 6, 5, 7)[:, ::2]
    torch.manual_seed(5)
    assert set(Dropout(0.5)(strided).unique().tolist()) == {0.0, 2.0}


def test_freed_memory_is_kept_or_the_answer_is_no():
    assert keep_freed_memory() in (True, False)


def test_losses_of_a_stub_batch_have_no_host_synchronisation():
    """On the meta device every read of a value raises: the losses must not need one."""
    with torch.device("meta"):
        student = build("unet", in_channels=1, num_classes=4)
    teacher = frozen_copy(student)
    images = torch.empty(4, 1, SIDE, SIDE, device="meta")
    labels = torch.empty(2, SIDE, SIDE, dtype=torch.int64, device="meta")
    batch = SimpleNamespace(images=images, labels=labels, n_labeled=2, labeled=images[:2], unlabeled=images[2:])
    weight = torch.empty((), device="meta")
    terms = train_MeanTeacher.losses(student, teacher, batch, weight, True, train_MeanTeacher.Method())
    terms["total"].backward()
    ema_update(teacher, student, 3, 0.99)
    assert terms["total"].device.type == "meta"


def test_optimizers_take_all_their_arguments():
    """A rate of 0 is a rate; decay, momentum and clip are as said; without a word the published ones."""
    layer = torch.nn.Linear(3, 3)
    plain = Form("sgd").build([{"params": list(layer.parameters())}], 0.0, torch.device("cpu")).param_groups[0]
    assert (plain["lr"], plain["momentum"], plain["weight_decay"], plain["nesterov"]) == (0.0, 0.9, 1e-4, False)
    form = Form("sgd", momentum=0.5, weight_decay=0.0, nesterov=True)
    other = form.build([{"params": list(layer.parameters())}], 1.0, torch.device("cpu")).param_groups[0]
    assert (other["momentum"], other["weight_decay"], other["nesterov"]) == (0.5, 0.0, True)
    decays = [Form(kind).build([{"params": list(layer.parameters())}], 1.0, torch.device("cpu")).param_groups[0]["weight_decay"]
              for kind in ("adam", "adamw")]
    assert decays == [0.0, 1e-2] and (plain["fused"], plain["foreach"]) == (False, True)
    clipped = ScheduledOptimizer(Form("sgd", 0.0, 0.0).build([{"params": list(layer.parameters())}], 1.0, torch.device("cpu")), 1.0,
                                 "constant", [1.0], clip=0.5)
    before = torch.cat([p.detach().flatten() for p in layer.parameters()])
    (100 * layer(torch.ones(1, 3)).sum()).backward()
    clipped.step()
    moved = torch.cat([p.detach().flatten() for p in layer.parameters()]) - before
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_rate_of_0_is_no_default_and_a_kept_network_has_the_mode_that_was_said(tiny_acdc, tmp_path, monkeypatch):
    for name in ("MODEL", "RESULTS", "CACHE"):
        monkeypatch.setenv(f"SEMISEG_{name}", str(tmp_path / name))
    run = Run(parse(train_MeanTeacher.Method, {}, ["--root_path", str(tiny_acdc), *SHORT]))
    network = run.network("network")
    optimizer = run.optimizer("network", network, lr=0.0)
    with pytest.raises(TypeError, match="train=True"):
        run.keep("teacher", frozen_copy(network))
    twin = run.keep("twin", frozen_copy(network), train=False)
    run.evaluates(network=network)
    loop = run.batches()
    next(loop)
    assert network.training and not twin.training and optimizer.base == optimizer.optimizer.param_groups[0]["lr"] == 0.0
    loop.close()
    run.ended("interrupted", "the test is over")
    status = json.loads((run.session.folder / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("interrupted", "the test is over")
