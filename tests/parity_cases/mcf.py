"""MCF: the step on LA, its schedules, and the residual V-Net."""
from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
import train_MCF
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient

from engine.schedules import SCHEDULES, ramp
from losses import cross_entropy, dice_loss, sharpened
from networks import build

LA = train_MCF.Method(**train_MCF.PRESETS["3D"], consistency_rampup=40.0)


def step(golden: Golden) -> Computed:
    out: Computed = {}
    n = golden["par_labeled_bs"].item()
    labels, (first, second) = golden.tensor("in_labels")[:n], (golden.leaf(f"in_logits_{k}") for k in "ab")
    *_, detailed, _ = steps = golden["par_iters"].tolist()
    for pair, marks in (((first, second), ""), ((second, first), "_swapped"), ((first, first), "same_")):
        stubs = {"model1": Stub(pair[0]), "model2": Stub(pair[1])}
        run = drive(train_MCF, LA, stubs, [golden_batch(labels, len(first) - n, t) for t in steps])
        for found in run.steps:
            terms, weight = found.terms, found.arguments["weight"]
            winner = 0 if terms["first_wins"] else 1
            unsupervised = weight * terms["consistency"]
            totals = [terms[f"supervised_{k + 1}"] + unsupervised * (winner != k) for k in (0, 1)]
            torch.testing.assert_close(sum(totals), terms["total"])
            if not marks:
                out |= {f"out_total_{k}_{found.step}": total for k, total in zip("ab", totals)} | {f"out_weight_{found.step}": weight}
            if found.step == detailed:
                detail = totals, winner, terms, weight
        totals, winner, terms, weight = detail
        grads = [gradient(total, *pair) for total in totals]
        sharp = sharpened(pair[winner][n:], LA.temperature).detach()
        if marks == "same_":
            out |= {f"out_same_total_{k}": total for k, total in zip("ab", totals)} | {"out_same_winner": np.uint8(winner)}
            out["out_same_rectification"] = terms["correction_1"]
            continue
        out |= {f"grad_total_{k}{marks}": found[i] for i, (k, found) in enumerate(zip("ab", grads))}
        out |= {f"out_winner{marks}": np.uint8(winner), f"out_sharpened{marks}": sharp, f"out_unsupervised{marks}": terms["consistency"]}
        out[f"out_cross_grad_max{marks}"] = max(grads[0][1].abs().max(), grads[1][0].abs().max())
        if marks:
            out |= {f"out_total_{k}{marks}": total for k, total in zip("ab", totals)} | {"out_weight_swapped": weight}
            continue
        out["out_disagreement"] = terms["disagreement"].to(torch.uint8)
        for i, (k, logits) in enumerate(zip("ab", pair)):
            correction = terms[f"correction_{i + 1}"]
            out |= {f"out_ce_{k}": cross_entropy(logits[:n], labels), f"out_dice_{k}": dice_loss(logits[:n], labels, foreground_only=True)}
            out |= {f"out_rectification_{k}": correction, f"out_supervised_{k}": terms[f"supervised_{i + 1}"]}
            out[f"grad_rectification_{k}"] = gradient(correction, logits)[0]
    # One network answers for both: its gradients as a and as b are those of the two totals, apart.
    one, other = first.detach().clone().requires_grad_(), first.detach().clone().requires_grad_()
    (found,) = drive(train_MCF, LA, {"model1": Stub(one), "model2": Stub(other)}, [golden_batch(labels, len(first) - n, detailed)]).steps
    return out | dict(zip(("grad_same_total_a", "grad_same_total_b"), gradient(found.terms["total"], one, other)))


def schedules(golden: Golden) -> Computed:
    steps = golden["in_iter"].tolist()
    return {"out_weight": [LA.consistency * ramp(t, 40.0) for t in steps],
            "out_learning_rate": [SCHEDULES["step_late"](t, 0.01, 6000) for t in steps]}


def name_there(name: str) -> str:
    """A tensor of our residual V-Net, as MCF's code calls it."""
    places = {"body.0": "conv1", "body.1": "bn1", "body.3": "conv2", "body.4": "bn2", "shortcut.": "downsample."}
    rules: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
        (r"^stem\.0", "resnet_encoder.conv1"), (r"^stem\.1", "resnet_encoder.bn1"),
        (r"^levels\.(\d)", lambda found: f"resnet_encoder.layer{int(found[1]) + 1}"), ("|".join(places), lambda found: places[found[0]]),
        (r"^up\.(\d)", lambda found: f"block_{('five', 'six', 'seven', 'eight')[int(found[1])]}_up.conv"),
        (r"^up_levels\.(\d)", lambda found: f"block_{('six', 'seven', 'eight', 'nine')[int(found[1])]}.conv"), (r"^out\.", "out_conv."),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def resvnet(golden: Golden) -> Computed:
    network = build("resvnet", dropout=0.0).eval()
    own = {name_there(name): value for name, value in network.state_dict().items()}
    ordered = [name for name in golden["out_keys"].tolist() if name in own]
    for k, name in enumerate(name for name in ordered if own[name].is_floating_point()):
        value = own[name]
        v = torch.sin(0.37 * torch.arange(value.numel(), dtype=torch.float64) + k).view(value.shape)
        if value.ndim > 1:
            v = 1.4 * v * (2 / value[0].numel()) ** 0.5
        else:
            v = 1 + v / 4 if name.endswith(("running_var", "weight")) else v / 10
        value.copy_(v)
    with torch.no_grad():
        maps = network.encode(golden.tensor("in_volume"))
        logits = network.head(network.decode(maps))
    return {
        "out_parameters": np.array(sum(p.numel() for p in network.parameters())), "out_logits": logits,
        "out_parameters_vnet": np.array(sum(p.numel() for p in build("vnet").parameters())),
        "out_keys": np.array(ordered), "out_shapes": np.array([",".join(map(str, own[name].shape)) for name in ordered]),
        "out_feature_shapes": np.array([one.shape for one in maps]),
    }


FILES = {
    "mcf_la": Parity(step, tolerances={"out_sharpened*": (1e-4, 1e-6)}),
    "mcf_schedules": Parity(schedules),
    "mcf_resvnet": Parity(resvnet, tolerances={"out_logits": (1e-4, 1e-5)}),
}
