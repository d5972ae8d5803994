"""Entropy minimisation, CPS and R-Drop on one labelled and unlabelled batch: each script's own `main`, with stub networks."""
from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
import train_CPS
import train_EntMin
import train_RDrop
from parity_tools import Computed, Golden, Parity, ScriptedRun, Stub, TappedStub, drive, golden_batch, gradient

from losses import entropy_map


def entropy(golden: Golden) -> Computed:
    """The map, its mean, and both divided by the logarithm of the number of classes."""
    out: Computed = {}
    for kind in golden.endings("in_logits_"):
        logits = golden.leaf(f"in_logits_{kind}")
        found = entropy_map(logits.softmax(1))
        out |= {f"out_entropy_map_{kind}": found, f"out_entropy_minimization_{kind}": found.mean()}
        if kind != "saturated":
            batch = golden_batch(torch.zeros(1, *logits.shape[2:], dtype=torch.long), len(logits) - 1)
            share = train_EntMin.losses(Stub(logits), batch, 0.0, train_EntMin.Method())["entropy"]
            out |= {f"out_entropy_loss_{kind}": share, f"grad_entropy_loss_{kind}": gradient(share, logits)[0]}
            out[f"out_entropy_loss_map_{kind}"] = found / log(logits.shape[1])
            (out[f"grad_entropy_minimization_{kind}"],) = gradient(found.mean(), logits)
    return out


def one_step(golden: Golden, script: Any, options: Any, **logits: torch.Tensor) -> ScriptedRun:
    """The script at the file's step, with networks (by role) that answer with these logits."""
    labels = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()]
    count = len(next(iter(logits.values())))
    batch = golden_batch(labels, count - len(labels), golden["par_iter"].item())
    return drive(script, options, {role: Stub(z) for role, z in logits.items()}, [batch])


def entropy_minimization(golden: Golden) -> Computed:
    logits = golden.leaf("in_logits")
    (step,) = one_step(golden, train_EntMin, train_EntMin.Method(), network=logits).steps
    terms = {"supervised": step.terms["supervised"], "unsupervised": step.terms["entropy"], "total": step.terms["total"]}
    out: Computed = {f"out_{name}": value for name, value in terms.items()} | {"out_weight": step.arguments["weight"]}
    return out | {f"grad_{name}": gradient(terms[name], logits)[0] for name in ("unsupervised", "total")}


def cps(golden: Golden, dimensions: str) -> Computed:
    logits = {f"model{k}": golden.leaf(f"in_logits_{k}") for k in (1, 2)}
    options = train_CPS.Method(**train_CPS.PRESETS[dimensions])
    (step,) = one_step(golden, train_CPS, options, **logits).steps
    first, second = logits.values()
    out: Computed = {"out_weight": step.arguments["weight"], "out_total": step.terms["total"]}
    for k, own, other in ((1, first, second), (2, second, first)):
        pseudo = step.terms[f"pseudo_{k}"]
        by_own, by_other = gradient(pseudo, own, other)
        out |= {f"out_supervised_{k}": step.terms[f"supervised_{k}"], f"out_pseudo_{k}": pseudo, f"grad_pseudo_{k}": by_own}
        out[f"grad_total_{k}"] = gradient(step.terms["total"], own)[0]
        out["out_cross_grad_max"] = torch.maximum(out.get("out_cross_grad_max", torch.zeros(())), by_other.abs().max())
    out["out_pseudo_labels_1"], out["out_pseudo_labels_2"] = step.terms["pseudo_labels"]
    return out


def rdrop(golden: Golden) -> Computed:
    """The published code, with the weight that the files were made with."""
    logits = {f"model{k}": golden.leaf(f"in_logits_{k}") for k in (1, 2)}
    options = train_RDrop.Method(**train_RDrop.PRESETS["published_code"], consistency=0.1)
    (step,) = one_step(golden, train_RDrop, options, **logits).steps
    out: Computed = {"out_weight": step.arguments["weight"], "out_kl": step.terms["divergence"], "out_total": step.terms["total"]}
    for k, own in enumerate(logits.values(), 1):
        out[f"out_supervised_{k}"] = step.terms[f"supervised_{k}"]
        out |= {f"grad_kl_{k}": gradient(step.terms["divergence"], own)[0], f"grad_total_{k}": gradient(step.terms["total"], own)[0]}
    return out


def simeps_baselines_cps(golden: Golden) -> Computed:
    """The arrays of CPS in `simeps_baselines`: CPS as on NEU-Seg, labelled and unlabelled images passing apart."""
    parts = {part: [golden.leaf(f"in_logits_{part}_{k}") for k in (1, 2)] for part in ("labeled", "unlabeled")}
    stubs = {f"model{k + 1}": TappedStub(*((None, None, parts[part][k]) for part in ("labeled", "unlabeled"))) for k in (0, 1)}
    options = train_CPS.Method(**train_CPS.PRESETS["defect"], dice="linear", passes="apart")
    batch = golden_batch(golden.tensor("in_labels"), len(parts["unlabeled"][0]), golden["par_iter"].item())
    (step,) = drive(train_CPS, options, stubs, [batch]).steps
    unlabeled = step.terms["pseudo_1"] + step.terms["pseudo_2"]
    return {
        "out_weight": step.arguments["weight"], "out_cps_unlabeled": unlabeled, "out_cps_total": step.terms["total"],
        "out_cps_labeled": step.terms["pseudo_labeled_1"] + step.terms["pseudo_labeled_2"],
        "grad_cps_unlabeled_1": gradient(unlabeled, parts["unlabeled"][0])[0],
    }


LOG: dict[str, Any] = {"out_entropy_*map_[23]d": (1e-5, 1e-6), "out_entropy_*_saturated": (1e-4, 1e-6)}
CASES: dict[str, Callable[[Golden], Computed]] = {
    "entropy_minimization_2d": entropy_minimization, "entropy_minimization_3d": entropy_minimization,
    "cps_2d": lambda golden: cps(golden, "2D"), "cps_3d": lambda golden: cps(golden, "3D"),
    "rdrop_2d": rdrop, "rdrop_3d": rdrop,
}

FILES = {"entropy": Parity(entropy, tolerances=LOG), **{name: Parity(compute) for name, compute in CASES.items()}}
