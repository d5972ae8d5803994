"""DC-Net: cross-supervised dual classifiers (Zhang et al., arXiv 2305.16216). A reconstruction.

No code is public, and we know the abstract alone. One network has two classifiers: a plain one, f,
and an evidential one, g, which gives a Dirichlet distribution D(a) at each pixel. Each labels the
unlabelled images for the other; f counts a pixel the less the less evidence g has there:

    L = S(f(x_l), y_l) + [E + D](a_l, y_l) / 2 + k r(t) KL(D(a_l') || D(1))
        + w(t) * [mean (1 - u) CE(f(x_u), q_g) + E(a_u, q_f)]
    a = softplus(g(x)) + 1,   s = sum_c a_c,   E = psi(s) - psi(a_y),   u = C / s

S = (CE + Dice) / 2; D is the Dice of a / s, q the likeliest class, a' is a without the evidence for
the label.

Page: docs/methods/dc_net.md      python code/train_DCNet.py --dataset LA
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from engine.schedules import linear_rampup
from losses import cross_entropy, supervised_loss
from losses.evidential import (
    dirichlet,
    expected_cross_entropy,
    misleading_evidence,
    vacuity,
    weighted_by_position,
)
from losses.supervised import DICE
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    second: Literal["evidential", "plain"] = "evidential"
    """The second classifier; plain: cross pseudo supervision between two heads of one network."""
    misleading_weight: NotNegative = 0.2
    """k: weight of evidence for wrong classes, 0 or more."""
    misleading_rampup: NotNegative = 0.25
    """Share of the training in which r rises linearly from 0 to 1; 0: at once."""


PRESETS: Presets = {
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(network, batch, weight, rise, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    (plain_l, second_l), (plain_u, second_u) = logits_of(network, batch.labeled, batch.unlabeled,
                                                         options.passes)
    pseudo_f, pseudo_g = (z.detach().argmax(1) for z in (plain_u, second_u))
    supervised = supervised_loss(plain_l, batch.labels, options.dice)
    if options.second == "plain":
        evidence_l = supervised_loss(second_l, batch.labels, options.dice)
        misleading = evidence_l.new_zeros(())
        pseudo_1, pseudo_2 = cross_entropy(plain_u, pseudo_g), cross_entropy(second_u, pseudo_f)
        unsure = torch.zeros_like(plain_u[:, 0])
    else:
        alpha_l, alpha_u = dirichlet(second_l), dirichlet(second_u)
        evidence_l = (expected_cross_entropy(alpha_l, batch.labels)
                      + DICE[options.dice](alpha_l.log(), batch.labels)) / 2
        misleading = misleading_evidence(alpha_l, batch.labels)
        unsure = vacuity(alpha_u).detach()
        pseudo_1 = weighted_by_position(plain_u, pseudo_g, 1 - unsure)
        pseudo_2 = expected_cross_entropy(alpha_u, pseudo_f)

    total = (supervised + evidence_l + options.misleading_weight * rise * misleading
             + weight * (pseudo_1 + pseudo_2))
    return {"total": total, "supervised": supervised, "supervised_2": evidence_l,
            "misleading": misleading, "pseudo_1": pseudo_1, "pseudo_2": pseudo_2,
            "agreement": (pseudo_f == pseudo_g).float().mean(), "pseudo_labels": pseudo_g,
            "unsure": unsure}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.dice == "none" and options.second == "evidential", "--dice none: DC-Net's "
               "evidential classifier learns a Dice; try --dice squared.")
    network = run.network("network", model="two_classifiers", several_heads=True,
                          body=options.model)
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        rise = linear_rampup(step, options.misleading_rampup * options.max_iterations)
        terms = step_losses(network, batch, weight, rise, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
