"""Supervised baseline (U-Net: Ronneberger et al., MICCAI 2015).

Only the labelled images are seen: the lower bound with few labels, the upper bound with all. With
--augment strong, nnU-Net's augmentation a follows the data set's own:

    L = S(f(a(x_l)), a(y_l)),   S = (CE + Dice) / 2

Page: docs/methods/supervised.md      python code/train_Supervised.py --dataset ACDC
Score: Dice 0.6732 on ACDC at 64x64, 2,000 steps, 6 min on a CPU core (results/small_schedule.md)
"""
from dataclasses import dataclass
from typing import Literal

from dataloaders.augmentation.nnunet import augment
from engine import Options, Presets, Run, launch
from losses import supervised_loss


@dataclass
class Method(Options):
    augment: Literal["published", "strong"] = "published"
    """published: the data set's augmentation; strong: nnU-Net's after it (turns, scaling, contrast,
    gamma, blur, noise, ...)."""


PRESETS: Presets = {
    # 20 steps an epoch for 599 epochs in the peer's baseline; validation stays once an epoch.
    "NEU-Seg": dict(batch_size=16, steps_per_epoch=20, val_every=20, max_iterations=11980),
    "MT": dict(batch_size=16, steps_per_epoch=9, val_every=9, max_iterations=5391),
    "DAGM": dict(batch_size=16, steps_per_epoch=30, val_every=30),
    "BraTS2019": dict(batch_size=2),
}


def losses(network, batch, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l = network(batch.images)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    return {"total": supervised}


def main(options: Method) -> None:
    run = Run(options)
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches(labeled_only=True):
        if options.augment == "strong":
            batch.images, batch.labels = augment(batch.images, batch.labels, batch.rng)
        terms = step_losses(network, batch, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
