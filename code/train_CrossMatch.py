"""CrossMatch (Zhao et al., IEEE JBHI 2024, arXiv 2405.00354): perturbed images, perturbed features.

One network f reads an unlabelled image u and two strong views s, r of it, with boxes of another
image in them (CutMix). It decodes u and r twice more, from features without a quarter (u', r') and
without three quarters (u'', r'') of their channels. What is less perturbed teaches what is more:

    L = [S(f(x_l), y_l) + D(s, u) / 4 + D(r, u) / 4 + k K] / 2,   S = (CE + Dice) / 2
    K = (1 - e) [D(u', u) + D(u'', u) + D(r', u) + D(r'', u)] / 4 + e [D(r', u') + D(r'', u'')] / 2
    D(a, b): Dice of a and the class of b where max b >= tau; of the other image in a's box

Page: docs/methods/crossmatch.md      python code/train_CrossMatch.py --dataset LA
"""
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.strong_volumes import view_with_boxes
from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from engine.schedules import sigmoid_rampup
from losses import supervised_loss
from losses.pseudo_labels import hard_labels
from losses.supervised import DICE
from networks.perturbations import without_channels


@dataclass
class Method(Options):
    confidence: Share = 0.95
    """tau at the start, 0 to 1."""
    confidence_rise: Share = 0.0
    """How much tau rises during training."""
    confidence_unit: Literal["1", "ln2"] = "1"
    """ln2: tau is that times ln 2, after the first step (published code on LA)."""
    distillation: NotNegative = 0.5
    """k, the weight of K."""
    eta: Share = 0.3
    """e, the share of K by which dropped features teach dropped features, 0 to 1."""
    feature_dropout: Annotated[tuple[float, float], Within(0, 1, open_high=True)] = (0.25, 0.75)
    """Shares of the channels that are dropped, 0 to below 1."""
    nesterov: bool = False
    """Nesterov's momentum, with --optimizer sgd."""
    stretch: Annotated[float, Within(1)] = 1.0
    """How many times as long as the training the schedules of rate and tau are."""


PRESETS: Presets = {
    "ACDC": dict(max_iterations=29400, nesterov=True, dice="smooth"),
    "LA": dict(max_iterations=14000, optimizer="adamw", base_lr=1e-3, schedule="poly_next",
               stretch=17 / 14, confidence=0.75, confidence_rise=0.25, confidence_unit="ln2",
               distillation=1.0),
}


def threshold_at(step, options):
    """tau; it lags one step, and at the first has no unit (published code)."""
    if step == 0:
        return options.confidence
    rise = sigmoid_rampup(step - 1, options.stretch * options.max_iterations)
    unit = log(2) if options.confidence_unit == "ln2" else 1.0
    return (options.confidence + options.confidence_rise * rise) * unit


def decoded(network, beside, images, shares):
    """Logits of images beside, of images, and of images by each share of dropped channels."""
    maps = network.encode(torch.cat([beside, images]))
    dropped = [without_channels([x[len(beside):] for x in maps], share) for share in shares]
    logits = network.head(network.decode([torch.cat(level) for level in zip(maps, *dropped)]))
    return logits.split([len(beside), *[len(images)] * (1 + len(shares))])


def losses(network, batch, views, threshold, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    (view_s, box_s), (view_r, box_r) = views
    shares, D = options.feature_dropout, DICE[options.dice]
    beside = batch.labeled if options.passes == "joint" else batch.labeled[:0]
    with torch.no_grad():
        _, *others = decoded(network, beside, batch.mates[0].images, shares)
    logits_l, *u = decoded(network, beside, batch.unlabeled, shares)
    if options.passes == "apart":
        logits_l = network(batch.labeled)
    s, *r = decoded(network, view_s, view_r, shares)
    pseudo = [hard_labels(z.detach(), threshold) for z in u]
    pseudo_others = [hard_labels(z, threshold) for z in others]
    pseudo_r = [torch.where(box_r[:, 0], *pair) for pair in zip(pseudo_others, pseudo)]
    pseudo_s = torch.where(box_s[:, 0], pseudo_others[0], pseudo[0])

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    strong = {"strong_1": D(s, pseudo_s), "strong_2": D(r[0], pseudo_r[0])}
    clean = {"weak_from_clean": D(u[1], pseudo[0]), "strong_from_clean": D(u[2], pseudo[0]),
             "strong_2_weak_from_clean": D(r[1], pseudo_r[0]),
             "strong_2_strong_from_clean": D(r[2], pseudo_r[0])}
    alike = {"strong_2_weak_from_weak": D(r[1], pseudo_r[1]),
             "strong_2_strong_from_strong": D(r[2], pseudo_r[2])}
    distillation = ((1 - options.eta) * sum(clean.values()) / 4
                    + options.eta * sum(alike.values()) / 2)
    total = (supervised + sum(strong.values()) / 4 + options.distillation * distillation) / 2
    return {"total": total, "supervised": supervised, **strong, **clean, **alike,
            "distillation": distillation, "pseudo_labels": pseudo[0], "mask": pseudo[0] != 255,
            "strong_views": torch.cat([view_s, view_r]),
            "taught": torch.cat([pseudo_s, *pseudo_r])}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.dice == "none", "--dice none: its losses are made of Dice; try squared.")
    network = run.network("network")
    decay = 1e-4 if options.optimizer == "adamw" else None
    optimizer = run.optimizer("network", network, weight_decay=decay, nesterov=options.nesterov,
                              stretch=options.stretch)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches(draws=2):
        views = [view_with_boxes(batch.unlabeled, batch.mates[0].images, batch.rng, run.data.mean,
                                 run.data.std) for _ in "sr"]
        terms = step_losses(network, batch, views, threshold_at(step, options), options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
