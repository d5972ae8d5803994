"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017).

A student learns from the labelled images; on the unlabelled ones it must agree with a teacher, the moving average
of its own weights, that sees a noisier input:

    L = (CE + Dice)(student(x_l), y_l) / 2 + w(t) * mean |softmax student(x_u) - softmax teacher(x_u + n)|^2

Page: docs/methods/mean_teacher.md          python code/train_MeanTeacher.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass

import torch

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight
from losses import softmax_mse, supervised_loss
from networks import ema_update, frozen_copy, logits_of


@dataclass
class MeanTeacher(Options):
    consistency: float = 0.1
    """Weight of the consistency term once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""
    consistency_start: int = 1000
    """Steps without the consistency term (published code, 2D only)."""
    ema_decay: float = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    ema_buffers: bool = False
    """Average the teacher's batch-norm statistics too (published: no)."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice this value."""


PRESETS: Presets = {
    "3D": dict(consistency_start=0),
    "NEU-Seg": dict(max_iterations=35341, patience=40),
    "Phantom": dict(consistency_start=0, consistency_rampup=1.0),
    "cross_val_dev": dict(consistency_start=0),
}


def losses(student, teacher, batch, weight, started, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    noise = (options.noise * torch.randn_like(batch.unlabeled)).clamp(-2 * options.noise, 2 * options.noise)
    with torch.no_grad():
        target = teacher(batch.unlabeled + noise)

    supervised = supervised_loss(logits[:n], batch.labels, options.dice)
    consistency = softmax_mse(logits[n:], target).mean() if started else supervised.new_zeros(())
    return {"total": supervised + weight * consistency, "supervised": supervised, "consistency": consistency}


def main(options: MeanTeacher) -> None:
    run = Run(options)
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(student, teacher, batch, weight, started=step >= options.consistency_start, options=options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay, options.ema_buffers)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, MeanTeacher, PRESETS)
