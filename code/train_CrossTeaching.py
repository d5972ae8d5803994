"""Cross teaching between CNN and transformer (Luo et al., MIDL 2022, arXiv 2112.04894). 2D only.

Two networks that see differently, a U-Net (near) and a Swin-UNet (far), are given the same images.
On the unlabelled ones each learns from what the other says, as hard labels and by Dice alone:

    L = S(f_1(x_l), y_l) + S(f_2(x_l), y_l) + w(t) * [Dice(f_1(x_u), q_2) + Dice(f_2(x_u), q_1)]
    q_k = argmax f_k(x_u),   S = (CE + Dice) / 2

Page: docs/methods/cross_teaching.md      python code/train_CrossTeaching.py --dataset ACDC
Score: Dice 0.787 on Phantom: python code/compare.py --methods CrossTeaching --seeds 1
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import NotNegative, Options, Positive, Presets, Run, launch
from losses import dice_loss, supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    model2: str = "swin_unet"
    """The other network, beside --model (published: unet and swin_unet; any two for images)."""
    optimizer2: Literal["same", "sgd", "adam"] = "same"
    """Of the other network: as --optimizer (published), or one of its own. Without --pretrained a
    transformer learns better with adam."""
    base_lr2: Positive | None = None
    """Learning rate of the other network at the start. Without it: --base_lr (published)."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""


PRESETS: Presets = {
    **dict.fromkeys(("PROMISE12", "ISIC", "defect"), dict(patch_size=(224, 224))),
    "ACDC": dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next"),
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(model1, model2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, batch.labeled, batch.unlabeled, options.passes)
    pseudo1_u, pseudo2_u = (z.detach().argmax(1) for z in (logits1_u, logits2_u))  # however unsure

    supervised = {"supervised_1": supervised_loss(logits1_l, batch.labels, options.dice),
                  "supervised_2": supervised_loss(logits2_l, batch.labels, options.dice)}
    pseudo = {"pseudo_1": dice_loss(logits1_u, pseudo2_u),
              "pseudo_2": dice_loss(logits2_u, pseudo1_u)}
    total = sum(supervised.values()) + weight * sum(pseudo.values())
    agreement = (pseudo1_u == pseudo2_u).float().mean()
    return {"total": total, **supervised, **pseudo, "agreement": agreement,
            "pseudo_labels": torch.stack([pseudo1_u, pseudo2_u])}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"Cross teaching is for images, and {run.data.name} has "
               "volumes: CPS trains two networks on them, python code/train_CPS.py.")
    model1, model2 = run.network("model1"), run.network("model2", model=options.model2)
    kind2 = None if options.optimizer2 == "same" else options.optimizer2
    optimizers = [run.optimizer("model1", model1),
                  run.optimizer("model2", model2, kind=kind2, lr=options.base_lr2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(model1, model2, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
