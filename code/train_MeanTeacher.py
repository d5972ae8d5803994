"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017).

A student f learns from the labelled images. On the unlabelled ones it must agree with a teacher f',
the moving average of its own weights, that sees a noisier input:

    L = S(f(x_l), y_l) + w(t) * mean |softmax f(x_u) - softmax f'(x_u + n)|^2,   S = (CE + Dice) / 2

Page: docs/methods/mean_teacher.md      python code/train_MeanTeacher.py --dataset ACDC
Score: Dice 0.6419 on ACDC at 64x64, 2,000 steps, 22 min on a CPU core (results/small_schedule.md)
"""
from dataclasses import dataclass

import torch

from engine import NotNegative, Options, Presets, Run, Share, Steps, launch
from losses import softmax_mse, supervised_loss
from networks import ema_update, frozen_copy, logits_of, noisy


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    consistency_start: Steps = 1000
    """Steps without that term (published code, 2D only)."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    ema_buffers: bool = False
    """Average the teacher's batch-norm statistics too (published: no)."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice that."""


PRESETS: Presets = {
    "3D": dict(consistency_start=0),
    "NEU-Seg": dict(max_iterations=35341, patience=40),
    "Phantom": dict(consistency_start=0),
    "cross_val_dev": dict(consistency_start=0),
}


def losses(student, teacher, batch, weight, started, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    with torch.no_grad():
        target = teacher(noisy(batch.unlabeled, options.noise))

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    consistency = softmax_mse(logits_u, target).mean() if started else supervised.new_zeros(())
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency}


def main(options: Method) -> None:
    run = Run(options)
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        started = step >= options.consistency_start
        terms = step_losses(student, teacher, batch, weight, started, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay, options.ema_buffers)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
