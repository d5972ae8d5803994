"""Cross teaching between CNN and transformer (Luo et al., MIDL 2022, arXiv 2112.04894). 2D only.

Two networks that see differently, a U-Net (near) and a Swin-UNet (far), are given the same images. On the unlabelled ones each
learns from what the other says, as hard labels and by Dice alone:

    L = sum_k S(f_k(x_l), y_l) + w(t) * [Dice(f_1(x_u), argmax f_2(x_u)) + Dice(f_2(x_u), argmax f_1(x_u))],   S = (CE + Dice) / 2

Page: docs/methods/cross_teaching.md          python code/train_CrossTeaching.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight
from losses import dice_loss, supervised_loss
from networks import logits_of


@dataclass
class CrossTeaching(Options):
    model2: str = "swin_unet"
    """The other network, beside --model (published: unet and swin_unet; any two networks for images)."""
    optimizer2: Literal["same", "sgd", "adam"] = "same"
    """Of the other network: as --optimizer (published), or one of its own. Without --pretrained a transformer learns better with adam."""
    base_lr2: float | None = None
    """Learning rate of the other network at the start. Without it: --base_lr (published)."""
    consistency: float = 0.1
    """Weight of the pseudo-labels once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""


PRESETS: Presets = {
    **dict.fromkeys(("PROMISE12", "ISIC", "NEU-Seg", "DAGM", "MT"), dict(patch_size=(224, 224))),
    "ACDC": dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next"),
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(network1, network2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits = [logits_of(network, batch.labeled, batch.unlabeled, options.passes) for network in (network1, network2)]
    lessons = torch.stack([z[n:].detach().argmax(1) for z in logits])
    terms: dict = {"total": 0.0}
    for k, (z, lesson) in enumerate(zip(logits, lessons.flip(0)), 1):
        terms[f"supervised_{k}"] = supervised_loss(z[:n], batch.labels, options.dice)
        terms[f"pseudo_{k}"] = dice_loss(z[n:], lesson)
        terms["total"] = terms["total"] + terms[f"supervised_{k}"] + weight * terms[f"pseudo_{k}"]
    same = (lessons[0] == lessons[1]).float().mean()
    return {**terms, "agreement": same, "pseudo_labels": lessons}


def main(options: CrossTeaching) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"Cross teaching is for images, and {run.data.name} has volumes: CPS trains two networks on them, "
               "python code/train_CPS.py.")
    network1, network2 = run.network("model1"), run.network("model2", model=options.model2)
    kind2 = None if options.optimizer2 == "same" else options.optimizer2
    optimizers = [run.optimizer("model1", network1), run.optimizer("model2", network2, kind=kind2, lr=options.base_lr2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=network1, model2=network2, ensemble="mean_logits")

    for step, batch in run.batches():
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(network1, network2, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, CrossTeaching, PRESETS)
