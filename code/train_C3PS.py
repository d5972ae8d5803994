"""C3PS: context-aware conditional cross pseudo supervision (Liu and Zheng, arXiv 2306.08275).
A reconstruction: no code is public, and we know the abstract alone.

Cross pseudo supervision of two networks that are asked for one class c a row. What they say of an
unlabelled image in its own context is learned once more in another one: x' shows the window M of
x_u in another image of the batch.

    L = sum_k S(f_k(x_l | c), [y_l = c])
        + w(t) * sum_k [CE(f_k(x_u | c), q_j) + g CE_M(f_k(x' | c), q_j)]
    q_j = [f_j(x_u | c) > 0], j the other network,   S = (CE + Dice) / 2

From a share of the training on, classes are drawn in proportion to 1 - Dice_c on labelled images.

Page: docs/methods/c3ps.md      python code/train_C3PS.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Annotated

import torch

from dataloaders.augmentation.copy_paste import paste_box
from dataloaders.augmentation.strong_views import send
from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from losses import cross_entropy, supervised_loss
from losses.class_weights import RecentDice
from losses.overlap import IGNORED


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    context: NotNegative = 1.0
    """g: weight of the windows in another context, 0 or more."""
    window: Annotated[float, Within(0, 1, open_low=True, open_high=True)] = 2 / 3
    """Sides of the window as a share of the image's, above 0, below 1."""
    focus_from: Share = 0.5
    """Share of the training after which hard classes are asked for more often, 0 to 1."""
    dice_keep: Share = 0.98
    """Share of the past in what tells how hard a class is, 0 to 1."""


PRESETS: Presets = {
    "2D": dict(schedule="poly_next"),
    "3D": dict(schedule="poly_next"),
    "defect": dict(schedule="plateau"),
    "LA": dict(schedule="step"),
    "Pancreas-CT": dict(schedule="step"),
    "Phantom": dict(consistency_rampup=2.0),
}


def asked(network, batch, moved, classes, passes):
    """What a network says of a class a row: logits (., 2, *sides) of labelled images, of unlabelled
    ones, and of these in another context."""
    n, rows = batch.n_labeled, len(batch.images)
    images, of = torch.cat([batch.images, moved]), torch.cat([classes, classes[n:]])
    if passes == "apart":
        logits = torch.cat([network(images[:n], of[:n]), network(images[n:], of[n:])])
    else:
        logits = network(images, of)
    return logits[:n], logits[n:rows], logits[rows:]


def losses(model1, model2, recent, batch, classes, box, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n, x_u = batch.n_labeled, batch.unlabeled
    moved = torch.where(box, x_u, x_u.roll(1, 0))
    logits1_l, logits1_u, logits1_m = asked(model1, batch, moved, classes, options.passes)
    logits2_l, logits2_u, logits2_m = asked(model2, batch, moved, classes, options.passes)
    pseudo1_u, pseudo2_u = (z.detach().argmax(1) for z in (logits1_u, logits2_u))
    within1, within2 = (torch.where(box, q, IGNORED) for q in (pseudo1_u, pseudo2_u))
    of = classes.view(-1, *[1] * box.dim())
    labels = torch.where(batch.labels == IGNORED, IGNORED, (batch.labels == of[:n]).long())
    recent.seen((logits1_l + logits2_l).detach(), labels, classes[:n])

    supervised = {"supervised_1": supervised_loss(logits1_l, labels, options.dice),
                  "supervised_2": supervised_loss(logits2_l, labels, options.dice)}
    pseudo = {"pseudo_1": cross_entropy(logits1_u, pseudo2_u),
              "pseudo_2": cross_entropy(logits2_u, pseudo1_u)}
    context = {"context_1": cross_entropy(logits1_m, within2),
               "context_2": cross_entropy(logits2_m, within1)}
    total = sum(supervised.values()) + weight * (sum(pseudo.values())
                                                 + options.context * sum(context.values()))
    return {"total": total, **supervised, **pseudo, **context,
            "pseudo_labels": of[n:] * torch.stack([pseudo1_u, pseudo2_u]),
            "dice_of_classes": recent.dice[None], "other_context": moved}


def main(options: Method) -> None:
    run = Run(options)
    model1, model2 = (run.network(role, model="conditional", body=options.model)
                      for role in ("model1", "model2"))
    optimizers = [run.optimizer("model1", model1), run.optimizer("model2", model2)]
    recent = run.keep("recent", RecentDice(run.data.num_classes, run.device, options.dice_keep))
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        shares = recent.shares(step >= options.focus_from * options.max_iterations)
        drawn = 1 + batch.rng.choice(len(shares), len(batch.images), p=shares)
        classes = send(drawn, run.device)
        box = paste_box(batch.shared_rng, options.patch_size, options.window, run.device)
        terms = step_losses(model1, model2, recent, batch, classes, box, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
