"""CRII-Net: coarse-refined consistency with ranked pixel features (Du et al., IEEE JBHI 2023).
A reconstruction: no code is public, and we know the abstract alone.

Coarse: a student f agrees with its teacher f', the moving average of its weights, as in Mean
Teacher. Refined: features z of pixels lie nearer to the centre of their own class than to those of
others, by a margin m; centres m_c are of the pixel's own patch (intra), or of all others (inter):

    L = S(f(x_l), y_l) + w(t) * [mean |p - p'|^2 + b (R_intra + R_inter)]
    R = mean_(i, c) [m - cos(z_i, m_own) + cos(z_i, m_c)]_+,   c != own = the class of pixel i

p = softmax f(x_u), p' = softmax f'(x_u + n), S = (CE + Dice) / 2. Classes are y_l on labelled
images, on the others argmax p' where max p' >= tau.

Page: docs/methods/crii_net.md      python code/train_CRIINet.py --dataset ACDC --labeled_num 3
"""
from dataclasses import dataclass

import torch

from dataloaders.augmentation.displacement import check_grid, cut
from engine import NotNegative, Options, Presets, Run, Share, launch
from losses import supervised_loss
from losses.contrast import centres, of_other_patches, rank_loss
from losses.overlap import one_hot
from losses.pseudo_labels import hard_labels
from networks import ema_update, frozen_copy, logits_and_features, noisy


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice that."""
    refined: NotNegative = 1.0
    """b: weight of the ranked features beside the coarse consistency, 0 or more."""
    margin: NotNegative = 0.5
    """m, in cosines, 0 or more."""
    threshold: Share = 0.95
    """tau: least probability at which an unlabelled pixel has a class, 0 to 1."""
    grid: tuple[int, ...] = (4, 4)
    """Patches an axis."""


PRESETS: Presets = {
    "3D": dict(grid=(4, 4, 4)),
}


def losses(student, teacher, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits, features = logits_and_features(student, batch.images)
    with torch.no_grad():
        target = teacher(noisy(batch.unlabeled, options.noise))
    pseudo_u = hard_labels(target, options.threshold)
    known = one_hot(torch.cat([batch.labels, pseudo_u]), logits.shape[1])[0]
    pieces, classes = cut(features.float(), options.grid), cut(known, options.grid)
    own = centres(pieces, classes)

    supervised = supervised_loss(logits[:n], batch.labels, options.dice)
    coarse = ((logits[n:].softmax(1) - target.softmax(1)) ** 2).mean()
    intra = rank_loss(pieces, classes, *own, options.margin)
    inter = rank_loss(pieces, classes, *of_other_patches(*own), options.margin)
    total = supervised + weight * (coarse + options.refined * (intra + inter))
    return {"total": total, "supervised": supervised, "coarse": coarse, "intra": intra,
            "inter": inter, "pseudo_labels": pseudo_u, "mask": pseudo_u != 255}


def main(options: Method) -> None:
    run = Run(options)
    check_grid(options.grid, options.patch_size)
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, batch, weight, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
