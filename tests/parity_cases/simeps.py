"""simEps: its Dice, its similarity maps, and its script with stub networks."""
from __future__ import annotations

from typing import Any
from unittest import mock

import torch
import train_simEps
from parity_tools import Computed, Golden, Parity, ScriptedRun, TappedStub, drive, golden_batch, gradient
from torch import Tensor

import losses.similarity
from losses import similarity_loss, similarity_map, symmetric_similarity_loss, unsquared_dice_loss

PORT = train_simEps.PRESETS["2D"]
PARTS = ("labeled", "unlabeled")


def dice(golden: Golden) -> Computed:
    logits, one = golden.leaf("in_logits"), golden.leaf("in_logits_one_channel")
    loss = unsquared_dice_loss(logits, golden.tensor("in_labels"))
    # Two classes with p = (sigmoid x, 1 - sigmoid x) are the softmax of (x, 0), and a pixel with y = 1 is of the first.
    pair = torch.cat([one, torch.zeros_like(one)], 1)
    loss_one = unsquared_dice_loss(pair, 1 - golden.tensor("in_labels_one_channel"))
    return {
        "out_loss": loss, "grad_logits": gradient(loss, logits)[0],
        "out_loss_one_channel": loss_one, "grad_logits_one_channel": gradient(loss_one, one)[0],
    }


def similarity(golden: Golden) -> Computed:
    out: Computed = {}
    for stage in golden.endings("in_first_"):
        first, second = golden.leaf(f"in_first_{stage}"), golden.leaf(f"in_second_{stage}")
        loss, symmetric = similarity_loss(first, second), symmetric_similarity_loss(first, second)
        normalize = losses.similarity.F.normalize
        with mock.patch.object(losses.similarity.F, "normalize", side_effect=normalize) as spy:
            out[f"out_similarity_map_first_{stage}"] = similarity_map(first)
        out[f"out_gram_first_{stage}"] = spy.call_args.args[0]  # what our function divides by its rows' norms
        out |= {f"out_loss_{stage}": loss, f"out_symmetric_{stage}": symmetric}
        out[f"grad_first_{stage}"], out[f"grad_second_{stage}"] = gradient(loss, first, second)
        (out[f"grad_symmetric_first_{stage}"],) = gradient(symmetric, first)
    return out


def branches_of(golden: Golden, first: int, last: int) -> dict[str, dict[str, list[Any]]]:
    """By tap ("encoder", "decoder", "logits"; None where the file has none) and part, the arrays of networks first..last."""
    return {
        tap: {
            part: [golden.leaf(f"in_{tap}_{part}_{k}") if f"in_{tap}_{part}_{k}" in golden.arrays else None for k in range(first, last + 1)]
            for part in PARTS
        }
        for tap in ("encoder", "decoder", "logits")
    }


def train(golden: Golden, options: train_simEps.Method, taps: dict[str, dict[str, list[Any]]]) -> ScriptedRun:
    stubs = {}
    for k in range(options.num_branches):
        parts = [(taps["encoder"][part][k], taps["decoder"][part][k], taps["logits"][part][k]) for part in PARTS]
        stubs[f"branch{k + 1}"] = TappedStub(*parts)
    batch = golden_batch(golden.tensor("in_labels"), len(taps["logits"]["unlabeled"][0]), golden["par_iter"].item())
    return drive(train_simEps, options, stubs, [batch])


def simeps(golden: Golden, **preset: Any) -> Computed:
    count = len(golden.endings("in_logits_labeled_"))
    taps = branches_of(golden, 1, count)
    options = train_simEps.Method(**{**PORT, **preset, "num_branches": count, "sim_weight": golden["par_similarity_coefficient"].item()})
    step = train(golden, options, taps).steps[0]
    out: Computed = {f"out_{name}": step.terms[name] for name in ("supervised", "similarity", "cps_labeled", "cps_unlabeled", "total")}
    out["out_weight"] = step.arguments["weight"]

    for part in PARTS:
        for k, labels in enumerate(train_simEps.pseudo_labels(taps["logits"][part], options.combine)):
            out[f"out_pseudo_labels_{part}_{k + 1}"] = labels
            if part == "unlabeled":
                out[f"out_cps_unlabeled_{k + 1}"] = train_simEps.supervised_loss(taps["logits"][part][k], labels, "linear")
    for name in golden.endings("grad_total_"):
        part, _, k = name.rpartition("_")
        (out[f"grad_total_{name}"],) = gradient(step.terms["total"], taps["logits"][part][int(k) - 1])
    if "grad_similarity_labeled_1" in golden.arrays:
        (out["grad_similarity_labeled_1"],) = gradient(step.terms["similarity"], taps["logits"]["labeled"][0])
    for stage, tap in zip("ed", ("encoder", "decoder")):
        if f"out_similarity_{tap}" in golden.arrays:
            alone = train(golden, train_simEps.Method(**{**PORT, **preset, "sim_stages": stage}), taps).steps[0].terms["similarity"]
            out[f"out_similarity_{tap}"] = alone
            for name in golden.endings(f"grad_similarity_{tap}_"):
                part, _, k = name.rpartition("_")
                (out[f"grad_similarity_{tap}_{name}"],) = gradient(alone, taps[tap][part][int(k) - 1])
    return out


def two_branches(golden: Golden) -> Computed:
    """Two branches without the similarity term are that repository's CPS."""
    taps = branches_of(golden, 1, 2)
    step = train(golden, train_simEps.Method(**{**PORT, "num_branches": 2, "sim_weight": 0.0}), taps).steps[0]
    unlabeled: Tensor = step.terms["cps_unlabeled"]
    return {
        "out_weight": step.arguments["weight"], "out_cps_labeled": step.terms["cps_labeled"], "out_cps_unlabeled": unlabeled,
        "out_cps_total": step.terms["total"], "grad_cps_unlabeled_1": gradient(unlabeled, taps["logits"]["unlabeled"][0])[0],
    }


BATCH = {"out_similarity*": (1e-4, 1e-7), "grad_similarity*": 1e-4, "grad_total*": 1e-4}

FILES = {
    "simeps_dice": Parity(dice),
    "simeps_similarity": Parity(similarity, tolerances={
        "out_gram_first_*": (1e-5, 1e-4), "out_similarity_map_first_*": (1e-5, 1e-6), "out_loss_*": (1e-4, 1e-9),
        "out_symmetric_*": (1e-4, 1e-9), "grad_*": 1e-4,
    }),
    "simeps_neu": Parity(simeps, tolerances=BATCH),
    "simeps_mtiles": Parity(lambda golden: simeps(golden, **train_simEps.PRESETS["MT"]), tolerances=BATCH),
    "simeps_dagm": Parity(lambda golden: simeps(golden, **train_simEps.PRESETS["DAGM"]), tolerances=BATCH),
    "simeps_four": Parity(simeps, tolerances=BATCH),
}
