"""simEps: similarity maps and ensemble-made pseudo-labels (Sime et al., IEEE TII 2022).

Several networks of one architecture see the same images. Each learns from the labels, and from hard
pseudo-labels that the others make together; and the B x B maps psi of similarity between the images
of a batch must agree for every pair of networks:

    L = sum_k S(f_k(x_l), y_l) + w(t) * sum_k [S(f_k(x_u), q_k) + S(f_k(x_l), q_k)]
        + s(t) * sum_{i<j} |psi(f_i) - psi(f_j)|^2 / B^2
    q_k = argmax of the maximum (or mean) of the other networks' softmaxes,   S = (CE + Dice) / 2

Page: docs/methods/simeps.md      python code/train_simEps.py --dataset NEU-Seg
Score: Dice 0.7119 on ACDC at 64x64, 2,000 steps, 38 min on a CPU core (results/small_schedule.md)
"""
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Literal

import torch

from engine import Count, NotNegative, Options, Presets, Run, Within, launch
from losses import similarity_map, supervised_loss, symmetric_similarity_loss


@dataclass
class Method(Options):
    num_branches: Annotated[int, Within(2)] = 3
    """Networks, at least 2 (published: 3, and 4)."""
    sim_stages: str = "o"
    """Where similarity maps are compared: e (deepest features), d (last decoder features), o
    (logits), joined by commas."""
    sim_weight: NotNegative = 50.0
    """Weight of the similarity term."""
    sim_rise: Literal["none", "run", "auto"] = "none"
    """none: this weight is constant, as published; run: it rises by exp(-5 (1 - t / T)^2) over
    the T steps of the run; auto: it rises in runs of less than 10,000 steps."""
    combine: Literal["max", "mean"] = "max"
    """How the other networks' probabilities make a pseudo-label."""
    consistency: NotNegative = 0.1
    """Weight of the pseudo-labels once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of --rampup_unit steps; 0: the weight is constant."""
    rampup_unit: Count = 150
    """Steps in a unit of the ramp."""


PRESETS: Presets = {
    "2D": dict(sim_weight=10.0, dice="linear", passes="apart"),
    "3D": dict(sim_weight=10.0, dice="linear", passes="apart"),
    **dict.fromkeys(("folder", "nnunet", "nnunet2D"), dict(sim_rise="auto")),
    "NEU-Seg": dict(sim_weight=50.0),
    "DAGM": dict(sim_stages="e,d", sim_weight=200.0, rampup_unit=60),
    "MT": dict(sim_weight=200.0, combine="mean", rampup_unit=50),
    "Phantom": dict(sim_weight=1.0, consistency=0.5, consistency_rampup=2.0),
}
PUBLISHED = ("NEU-Seg", "DAGM", "MT")
"""Data sets with published values; elsewhere they are ours, and the script says so."""
SHORT = 10000
"""Steps. In 944 a constant weight of 50 kept a class from being learned that comes by step 413
where it rises (results/simeps_finding.md); the published runs have 47,141."""


def pseudo_labels(logits, combine):
    """For each network the argmax of what the others say together, (B, *sides); no gradient, no
    threshold."""
    p = torch.stack([z.detach().softmax(1) for z in logits])
    others = [torch.cat([p[:k], p[k + 1 :]]) for k in range(len(logits))]
    return [(q.amax(0) if combine == "max" else q.mean(0)).argmax(1) for q in others]


def losses(branches, batch, weight, sim_weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    terms: dict = dict.fromkeys(("supervised", "cps_unlabeled", "cps_labeled", "similarity"), 0.0)
    for part, images in (("labeled", batch.labeled), ("unlabeled", batch.unlabeled)):
        taps: dict[str, list] = {"e": [], "d": [], "o": []}
        for network in branches:  # the parts pass apart, so batch norm sees them apart
            maps = network.encode(images)
            features = network.decode(maps)
            for stage, tap in zip("edo", (maps[-1], features, network.head(features))):
                taps[stage].append(tap)
        pseudo = pseudo_labels(taps["o"], options.combine)
        each = [supervised_loss(z, q, options.dice) for z, q in zip(taps["o"], pseudo)]
        terms[f"cps_{part}"] = sum(each)
        if part == "labeled":
            each = [supervised_loss(z, batch.labels, options.dice) for z in taps["o"]]
            terms["supervised"] = sum(each)
        for stage in options.sim_stages.split(","):
            pairs = combinations(taps[stage], 2)
            terms["similarity"] += sum(symmetric_similarity_loss(a, b) for a, b in pairs)
    total = (terms["supervised"] + weight * (terms["cps_unlabeled"] + terms["cps_labeled"])
             + sim_weight * terms["similarity"])
    maps = torch.stack([similarity_map(z.detach()) for z in taps["o"]])
    return {"total": total, **terms, "pseudo_labels": pseudo[0], "similarity_maps": maps}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(set(options.sim_stages.split(",")) - set("edo"),
               f"--sim_stages {options.sim_stages}: write e, d, o, joined by commas.")
    if run.data.name not in PUBLISHED:
        run.say(f"Similarity weight {options.sim_weight:g}, stages {options.sim_stages}, "
                f"{options.combine} voting, consistency {options.consistency:g}: for "
                f"{run.data.name} nobody has published values of simEps; these are ours.")
    rises = options.sim_rise == "run" or (options.sim_rise == "auto"
                                          and options.max_iterations < SHORT)
    if rises:
        run.say("The similarity weight rises over the run, so that the labels are heard first "
                "(--sim_rise none: constant, as published).")
    run.refuse(options.passes == "joint", "--passes joint: simEps sends labelled and unlabelled "
               "images through its networks apart.")
    roles = [f"branch{k + 1}" for k in range(options.num_branches)]
    branches = [run.network(role) for role in roles]
    optimizers = [run.optimizer(role, network) for role, network in zip(roles, branches)]
    step_losses = run.compiled(losses)
    run.evaluates(ensemble="mean_logits", **dict(zip(roles, branches)))

    for step, batch in run.batches():
        ramp = run.ramp(step, options.consistency_rampup, options.rampup_unit)
        weight = options.consistency * ramp
        rise = run.ramp(step, options.max_iterations, 1) if rises else 1.0
        terms = step_losses(branches, batch, weight, rise * options.sim_weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
