"""DeSCO: dense-sparse co-training (Cai et al., CVPR 2023, arXiv 2303.13090).

Of each labelled volume two slices at right angles are annotated, no more. Registration of slices
with their neighbours carries each of them through the volume: labels y_1 and y_2, the less true the
farther from their slice. Two networks learn one each, with weights that fall with the distance d in
slices, and from each other on unlabelled volumes where the other one is sure:

    L = sum_k (1 - w(t)) S(f_k(x_l), y_k; a(t)^d_k) + w(t) CE(f_k(x_u), argmax f_j(x_u); u_j < H(t))
    S(.; q) = (CE(.; q) + Dice(.; q)) / 2, the pixels weighed by q;   j = 3 - k
    a(t) = cos^2(pi e / 80) falls by and by;   H(t) = (3/4 + 1/4 exp(-5 (1 - t / T)^2)) ln 2

d_k is 0 in both annotated slices, u_j the entropy of the mean of noisy predictions. The networks
see different volumes in a step: each has its half of the batch. It takes volumes.

Page: docs/methods/desco.md      python code/train_DeSCO.py --dataset LA
"""
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from dataloaders.propagation import propagated
from engine import Count, Fill, NotNegative, Options, Presets, Run, Share, Within, launch
from engine.schedules import admitted_entropy, cosine_rampdown
from losses import pixel_weighted_cross_entropy, pixel_weighted_dice
from losses.mixtures import halves
from networks import entropy_over_passes, logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """w, the weight of learning from the other network once ramped up; of labels it is 1 - w."""
    consistency_rampup: NotNegative = 40.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    noise: NotNegative = 0.1
    """Standard deviation of the noise on volumes that tells who is sure, clipped at twice that."""
    further_passes: Annotated[int, Within(2)] = 8
    """Noisy predictions whose mean tells the uncertainty, an even number."""
    decay: Share = 0.95
    """a, by which a label counts less with each slice, until --decay_every steps are done."""
    decay_every: Count = 1000
    """Steps after which a is set anew; e is the number of units of 150 steps until then."""
    decay_length: Count = 40
    """The e at which a has come down to 0."""
    schedule2: Literal["constant", "same"] = "constant"
    """Learning rate of the second network (published: constant)."""


PRESETS: Presets = {
    "3D": dict(annotation="orthogonal"),
    "LA": dict(labeled_num="5"),
}
MAPS = {"label1": Fill(255, 255, 0), "label2": Fill(255, 255, 0),
        "distance1": Fill(0, 0, 255), "distance2": Fill(0, 0, 255)}


def decay_at(step, options):
    """a(t)."""
    units = step // options.decay_every * options.decay_every // 150
    length = options.decay_length
    return cosine_rampdown(min(units, length), length) if units else options.decay


def losses(model1, model2, batch, decay, weight, threshold, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    terms = {"total": batch.images.new_zeros(())}
    for k, network, other in ((1, model1, model2), (2, model2, model1)):
        x_l, x_u = (halves(images)[k - 1] for images in (batch.labeled, batch.unlabeled))
        maps = (batch.maps[f"{kind}{k}"][: batch.n_labeled] for kind in ("label", "distance"))
        y, d = (halves(rows)[k - 1] for rows in maps)
        logits_l, logits_u = logits_of(network, x_l, x_u, options.passes)
        with torch.no_grad():
            target = other(x_u).argmax(1)
            unsure = entropy_over_passes(other, x_u, options.further_passes, options.noise)
        sure = unsure[:, 0] < threshold

        cross_entropy = pixel_weighted_cross_entropy(logits_l, y.long(), decay**d)
        supervised = (cross_entropy + pixel_weighted_dice(logits_l, y.long(), decay**d)) / 2
        learned = pixel_weighted_cross_entropy(logits_u, target, sure.float())
        total = (1 - weight) * supervised + weight * learned
        terms |= {"total": terms["total"] + total, f"supervised_{k}": supervised,
                  f"learned_{k}": learned, "pseudo_labels": target, "mask": sure}
    return terms


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions != 3, "DeSCO learns from two annotated slices of each volume: "
               f"it takes volumes, and {run.data.name} has images.")
    run.refuse(options.annotation != "orthogonal" or options.further_passes % 2,
               f"--annotation {options.annotation} --further_passes {options.further_passes}: "
               "DeSCO needs --annotation orthogonal, and an even number of passes.")
    model1, model2 = run.network("model1"), run.network("model2")
    schedule2 = options.schedule if options.schedule2 == "same" else options.schedule2
    optimizers = [run.optimizer("model1", model1),
                  run.optimizer("model2", model2, schedule=schedule2)]
    step_losses = run.compiled(losses)
    run.evaluates(model1=model1, model2=model2)

    volumes = run.make_maps("propagated", run.items(True), list(MAPS),
                            lambda item, image, label: propagated(image, label, item.annotated))
    for step, batch in run.batches(labeled=volumes, maps=MAPS):
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        threshold = admitted_entropy(step, options.max_iterations)
        decay = decay_at(step, options)
        terms = step_losses(model1, model2, batch, decay, weight, threshold, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
