"""DeSCO: a step on LA, its weights a voxel, and what changes from step to step."""
from __future__ import annotations

from math import log

import numpy as np
import torch
import train_DeSCO
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient

from dataloaders.catalog import DATA_SETS
from dataloaders.propagation import distances
from engine.schedules import SCHEDULES
from losses import pixel_weighted_cross_entropy, pixel_weighted_dice
from networks import entropy_over_passes

LA = {**train_DeSCO.PRESETS["3D"], **train_DeSCO.PRESETS["LA"], "consistency_rampup": DATA_SETS["LA"].defaults["consistency_rampup"]}


def step(golden: Golden) -> Computed:
    n, steps = golden["par_labeled_bs"].item(), golden["par_iters"].tolist()
    options = train_DeSCO.Method(**LA, max_iterations=golden["par_max_iterations"].item())
    logits = {k: golden.leaf(f"in_logits_{k}") for k in (1, 2)}
    said = {k: golden.tensor(f"in_logits_unlabeled_of_{k}") for k in (1, 2)}
    noisy = {k: golden.tensor(f"in_noisy_logits_of_{k}") for k in (1, 2)}
    pairs = {k: [x[i : i + 2].flatten(0, 1) for i in range(0, len(x), 2)] for k, x in noisy.items()}
    labels, weights = ([golden.tensor(f"in_{kind}_{k}")[:n] for k in (1, 2)] for kind in ("labels", "weights"))
    batches = []
    for t in steps:
        batch = golden_batch(torch.cat(labels), 2 * (len(logits[1]) - n), t)
        slopes = [w.log() / log(train_DeSCO.decay_at(t, options)) for w in weights]  # so many slices away it has this weight
        for k in (1, 2):
            batch.maps |= {f"label{k}": torch.cat(labels).float(), f"distance{k}": torch.cat(slopes)}
        batches.append(batch)
    stubs = {"model1": Stub(logits[1], said[1], *pairs[1]), "model2": Stub(said[2], *pairs[2], logits[2])}
    run = drive(train_DeSCO, options, stubs, batches, data="LA")
    out: Computed = {}
    for found in run.steps:
        terms, t = found.terms, found.step
        out |= {f"out_weight_{t}": found.arguments["weight"], f"out_threshold_{t}": found.arguments["threshold"]}
        for k in (1, 2):
            sure = out_uncertainty(pairs[3 - k], said[3 - k], options) < found.arguments["threshold"]
            out |= {f"out_supervised_{k}_{t}": terms[f"supervised_{k}"], f"out_unsupervised_{k}_{t}": terms[f"learned_{k}"],
                    f"out_mask_{k}_{t}": sure.to(torch.uint8),
                    f"out_total_{k}_{t}": (1 - found.arguments["weight"]) * terms[f"supervised_{k}"]
                    + found.arguments["weight"] * terms[f"learned_{k}"]}
        total = sum(out[f"out_total_{k}_{t}"] for k in (1, 2))
        torch.testing.assert_close(total, terms["total"])
        if found is run.steps[1]:
            for k in (1, 2):
                out |= {f"grad_supervised_{k}": gradient(terms[f"supervised_{k}"], logits[k])[0],
                        f"grad_unsupervised_{k}": gradient(terms[f"learned_{k}"], logits[k])[0],
                        f"grad_total_{k}": gradient(terms["total"], logits[k])[0]}
    for k, of in ((1, 0), (2, 1)):
        out |= {f"out_ce_{k}": pixel_weighted_cross_entropy(logits[k][:n], labels[of], weights[of]),
                f"out_dice_{k}": pixel_weighted_dice(logits[k][:n], labels[of], weights[of]),
                f"out_uncertainty_{k}": out_uncertainty(pairs[3 - k], said[3 - k], options)}
    empty = pixel_weighted_cross_entropy(logits[1][:n], labels[0], torch.zeros_like(weights[0]))
    return out | {"out_empty_mask_unsupervised": empty, "out_empty_mask_grad_max": gradient(empty, logits[1])[0].abs().max().double()}


def out_uncertainty(pairs: list, said: torch.Tensor, options: train_DeSCO.Method) -> torch.Tensor:
    return entropy_over_passes(Stub(*pairs), torch.zeros_like(said[:, :1]), options.further_passes, options.noise)


def weights(golden: Golden) -> Computed:
    sides, crop, (last, middle) = (golden[f"par_{name}"].tolist() for name in ("volume", "crop", "annotated"))
    slices = (2, last), (1, middle)
    out: Computed = {}
    for name in golden.endings("out_weights_"):
        k, decay = name.split("_")
        own, other = slices if k == "1" else slices[::-1]
        away = torch.from_numpy(distances(sides, own, other).astype(np.float32))
        start = golden[f"in_start_{name}"].tolist()
        out[f"out_weights_{name}"] = (int(decay) / 100) ** away[tuple(slice(a, a + side) for a, side in zip(start, crop))]
    options, steps = train_DeSCO.Method(**LA), golden["in_iter"].tolist()
    out["out_decay"] = [train_DeSCO.decay_at(t, options) for t in steps]
    base, schedule = options.base_lr, DATA_SETS["LA"].defaults["schedule"]
    for k, name in ((1, schedule), (2, options.schedule2)):
        out[f"out_learning_rate_{k}"] = [SCHEDULES[name](t, base, options.max_iterations) for t in steps]
    return out


FILES = {
    "desco_3d": Parity(step, tolerances={"out_uncertainty_*": (1e-5, 1e-6)}),
    "desco_weights": Parity(weights),
}
