"""ICT: interpolation consistency training (Verma et al., IJCAI 2019, arXiv 1903.03825).

What the student f says of a mix of two unlabelled images must be the same mix of what a teacher f',
the moving average of its own weights, says of the two:

    L = S(f(x_l), y_l) + w(t) * mean |softmax f(M(u, v)) - M(softmax f'(u), softmax f'(v))|^2
    M(a, b) = (1 - m) a + m b, one m ~ Beta(alpha, alpha) for each pair u, v;   S = (CE + Dice) / 2

Page: docs/methods/ict.md      python code/train_ICT.py --dataset ACDC
Score: Dice 0.829 on Phantom: python code/compare.py --methods ICT --seeds 1
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from dataloaders.augmentation.strong_views import on
from engine import NotNegative, Options, Positive, Presets, Run, Share, launch
from losses import supervised_loss
from networks import ema_update, frozen_copy, logits_of


@dataclass
class Method(Options):
    ict_alpha: Positive = 0.2
    """Both parameters of the Beta distribution of the mix, above 0: small ones leave most pairs
    nearly unmixed."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""


PRESETS: Presets = {
    "defect": dict(ict_alpha=0.1),
    "NEU-Seg": dict(max_iterations=35341, patience=40),
}


def mixed(first, second, mix):
    """M: (1 - m) of the first and m of the second, m of shape (pairs, 1, ...)."""
    return (1 - mix) * first + mix * second


def losses(student, teacher, batch, mix, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    first, second = batch.unlabeled[: 2 * len(mix)].chunk(2)
    with torch.no_grad():
        target = mixed(teacher(first).softmax(1), teacher(second).softmax(1), mix)
    mixed_u = mixed(first, second, mix)
    logits_l, logits_u = logits_of(student, batch.labeled, mixed_u, options.passes)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    consistency = F.mse_loss(logits_u.softmax(1), target)
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency}


def main(options: Method) -> None:
    run = Run(options)
    pairs = 2 * run.world  # a process mixes its own rows
    run.refuse(options.batch_size - options.labeled_bs < pairs,
               f"--batch_size {options.batch_size} --labeled_bs {options.labeled_bs}: ICT mixes "
               "unlabelled images in pairs; choose --batch_size "
               f"{options.labeled_bs + pairs} or more.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        shape = (len(batch.unlabeled) // 2, *[1] * (batch.images.dim() - 1))
        mix = on(batch.images, batch.rng.beta(options.ict_alpha, options.ict_alpha, shape))
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, batch, mix, weight, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
