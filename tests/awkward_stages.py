"""A method of two stages, for the tests of the frame: pre-training on labels, then a student that learns from the best of it."""
from dataclasses import dataclass

import torch

from engine import Options, Run, launch
from losses import softmax_mse, supervised_loss


@dataclass
class Stages(Options):
    pretraining: int = 6
    """Steps of the first stage."""


PRESETS: dict = {}


def losses(student, teacher, batch):
    n = batch.n_labeled
    logits = student(batch.images)
    with torch.no_grad():
        target = teacher(batch.unlabeled)
    supervised = supervised_loss(logits[:n], batch.labels)
    agreement = softmax_mse(logits[n:], target).mean()
    return {"total": supervised + agreement, "supervised": supervised, "agreement": agreement, "pseudo_labels": target.argmax(1)}


def pretrain(run, steps):
    stage = run.stage("pretrain", iterations=steps)
    network = stage.network("student")
    optimizer = stage.optimizer("student", network)
    stage.evaluates(student=network)
    for step, batch in stage.batches(labeled_only=True):
        terms = {"total": supervised_loss(network(batch.labeled), batch.labels)}
        stage.update(optimizer, terms)
        stage.after_step(step, terms)
    return run.best("pretrain", "student")


def main(options: Stages) -> None:
    run = Run(options)
    teacher = pretrain(run, options.pretraining).requires_grad_(False)
    student = run.network("student")
    student.load_state_dict(teacher.state_dict())
    run.keep("teacher", teacher, train=False)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student)
    for step, batch in run.batches():
        terms = step_losses(student, teacher, batch)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Stages, PRESETS)
