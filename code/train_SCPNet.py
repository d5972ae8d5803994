"""SCP-Net: self-aware and cross-sample prototypical learning (Zhang et al., MICCAI 2023).

The features g of an image, averaged where its prediction p = softmax f(x) says a class, are the
prototypes of the classes. How like them a position is makes two more predictions, by the image's
own prototypes (q) and by those of the other images in the batch (r), with which p must agree:

    L = S(f(x_l), y_l) + w(t) * mean [|q - p|^2 + max q A |r - p|^2] / 2,   S = (CE + Dice) / 2
    q = softmax_c cos(g, own prototype of c),   r = the same of sum_others e^cos(g, prototype of c)

A is 1 where the prototypes of all images vote for one class, 0 where for all classes alike.

Page: docs/methods/scp_net.md      python code/train_SCPNet.py --dataset PROMISE12
"""
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from losses import supervised_loss
from losses.prototypes import agreement_of_votes, by_own_and_by_others, cosines_to, mean_features
from networks import logits_and_features, logits_of


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: --counted disagreement, which the paper has the other way round."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 1000.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    counted: Literal["agreement", "disagreement"] = "agreement"
    """A: where prototypes agree (the paper), or 1 less that (published code)."""


SGD = dict(base_lr=0.1)
"""The published rate, where the data set's own optimizer is SGD."""

PRESETS: Presets = {
    "2D": dict(model="unet_32", dice="halved"),
    **dict.fromkeys(("ISIC", "folder", "nnunet2D", "Phantom"), SGD),
    **dict.fromkeys(("ACDC", "PROMISE12"), dict(max_iterations=40000, **SGD)),
    "Phantom3D": dict(base_lr=0.01),
    "published_code": dict(counted="disagreement"),
}


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    f = partial(logits_and_features, network)
    (logits_l, g_l), (logits_u, g_u) = logits_of(f, batch.labeled, batch.unlabeled, options.passes)
    p = torch.cat([logits_l, logits_u]).softmax(1)
    with torch.no_grad():
        features = torch.cat([g_l, g_u])
        cosines = cosines_to(features, mean_features(features, p))
        by_own, by_others = by_own_and_by_others(cosines)
        agreed = agreement_of_votes(cosines)
        counted = agreed if options.counted == "agreement" else 1 - agreed

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    own = ((by_own - p) ** 2).mean()
    others = (by_own.amax(1, keepdim=True) * counted * (by_others - p) ** 2).mean()
    total = supervised + weight * (own + others) / 2
    n = batch.n_labeled
    return {"total": total, "supervised": supervised, "by_own_prototypes": own,
            "by_other_prototypes": others, "agreement": agreed.mean(),
            "pseudo_labels": by_others[n:].argmax(1), "votes_agree": agreed}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.batch_size < 2 * run.world, "SCP-Net compares the images of a batch: at "
               "least two are needed on each process, --batch_size 2 or more.")
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(network, batch, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
