"""URPC and CCT: one network whose four heads must agree, each script's own `main` with a stub that returns golden logits."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import train_CCT
import train_URPC
from parity_tools import Computed, Golden, Parity, ScriptedRun, Stub, drive, golden_batch, gradient
from torch import Tensor

from engine import Options


def heads(golden: Golden) -> list[Tensor]:
    return [golden.leaf(f"in_logits_{k}") for k in golden.endings("in_logits_")]


def train(golden: Golden, script: ModuleType, options: Options, logits: list[Tensor]) -> ScriptedRun:
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    batch = golden_batch(labels, len(logits[0]) - len(labels), golden["par_iter"].item())
    return drive(script, options, {"network": Stub(tuple(logits))}, [batch])


def common(golden: Golden, run: ScriptedRun, logits: list[Tensor]) -> Computed:
    """What both methods have: terms, weight, and gradients of the terms."""
    (step,) = run.steps
    terms = step.terms
    out: Computed = {"out_supervised": terms["supervised"], "out_unsupervised": terms["consistency"], "out_total": terms["total"],
                     "out_weight": step.arguments["weight"], "grad_supervised_0": gradient(terms["supervised"], logits[0])[0]}
    return out | {f"grad_unsupervised_{k}": found for k, found in enumerate(gradient(terms["consistency"], *logits))}


def urpc(golden: Golden, **preset: Any) -> Computed:
    consistency, rampup = golden["par_consistency"].tolist()
    options = train_URPC.Method(**preset)
    assert (options.consistency, options.consistency_rampup) == (consistency, rampup)
    logits = heads(golden)
    out = common(golden, train(golden, train_URPC, options, logits), logits)
    names = golden.endings("out_part_")
    names = sorted(names, key=lambda name: (name != "main", name))  # main, aux1, aux2, aux3, or aux1 .. aux4
    unlabeled = [scale[golden["par_labeled_bs"].item() :] for scale in logits]
    for name, part, variance in zip(names, *train_URPC.rectified(unlabeled)):
        out |= {f"out_part_{name}": part, f"out_variance_mean_{name}": variance}
    return out


def cct(golden: Golden) -> Computed:
    logits = heads(golden)
    options = train_CCT.Method(model="unet_cct")
    assert [options.consistency, options.consistency_rampup] == golden["par_consistency"].tolist()
    run = train(golden, train_CCT, options, logits)
    parts = {f"out_part_aux{k}": run.steps[0].terms[f"consistency_{name}"] for k, name in enumerate(train_CCT.PERTURBED, 1)}
    return common(golden, run, logits) | parts


FILES = {
    "urpc_2d": Parity(urpc),
    "urpc_3d": Parity(lambda golden: urpc(golden, **train_URPC.PRESETS["published_code_3D"])),
    "cct_2d": Parity(cct),
}
