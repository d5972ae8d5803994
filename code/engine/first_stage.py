"""A first stage that several methods have: what is learned from labels alone."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from engine.run import Run


def supervised_stage(run: Run, iterations: int, loss: Callable[[Tensor, Tensor], Tensor], batch_size: int | None = None,
                     **optimizer: Any) -> nn.Module:
    """The network "student" of a stage "pretrain" on labelled images alone, at its best; it has this very loop.

    loss: logits (B, C, *spatial), labels (B, *spatial) -> a scalar. batch_size: labelled images a step, in place of --batch_size.
    optimizer: arguments of `run.optimizer`.
    """
    stage = run.stage("pretrain", iterations)
    student = stage.network("student")
    made = stage.optimizer("student", student, **optimizer)
    step_losses = stage.compiled(lambda network, images, labels: {"total": loss(network(images), labels)})
    stage.evaluates(student=student)
    for step, batch in stage.batches(labeled_only=True, batch_size=batch_size):
        terms = step_losses(student, batch.images, batch.labels)
        stage.update(made, terms)
        stage.after_step(step, terms)
    return run.best("pretrain", "student")
