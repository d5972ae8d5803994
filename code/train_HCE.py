"""HCE: hierarchical consistency enforcement (Jin et al., MICCAI 2022): a reconstruction.

No code is public and the full text was not at hand: this is our reading of the abstract, filled in
from the same authors' later program (IIU). One encoder, a main decoder (k = 0) and K = 3 auxiliary
ones that read its maps perturbed. All must agree with t of a teacher, the moving average of the
student, the less the less sure t is (learnable guidance), and the auxiliary ones with the main one
(self-guidance):

    L = mean_k S(z_k(x_l), y_l) + w(t) * [G + A],   S = (CE + Dice) / 2,   p_k = softmax z_k(x_u)
    G = mean_k mean (p_k - t_k)^2,   t_k = (1 - u) t + u p_k,   u = -t log t
    A = mean_{k > 0} mean (p_k - p_0)^2

Page: docs/methods/hce.md      python code/train_HCE.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, Share, launch
from losses import eased_mse, supervised_loss
from networks import ema_update, frozen_copy, logits_of, noisy


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    perturb: Literal["all", "depth"] = "all"
    """Which maps of the encoder are perturbed: all five for each auxiliary decoder, or for the k-th
    one those beyond the k finest."""
    detach_main: bool = False
    """Draw the auxiliary decoders to the main one only."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice that."""


PRESETS: Presets = {"2D": dict(model="unet_cct")}


def losses(student, teacher, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    with torch.no_grad():
        target = teacher(noisy(batch.unlabeled, options.noise)).softmax(1)
    main, *auxiliary = predictions = [logits.softmax(1) for logits in logits_u]
    leader = main.detach() if options.detach_main else main

    each = [supervised_loss(logits, batch.labels, options.dice) for logits in logits_l]
    supervised = sum(each) / len(each)
    guided = sum(eased_mse(p, target).mean() for p in predictions) / len(predictions)
    own = sum(((p - leader) ** 2).mean() for p in auxiliary) / max(len(auxiliary), 1)
    total = supervised + weight * (guided + own)
    return {"total": total, "supervised": supervised, "guidance": guided, "self_guidance": own,
            "target": target[:, 1]}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"HCE has no network for volumes, and {run.data.name} has "
               "volumes; train_MeanTeacher.py takes them.")
    run.refuse(options.model != "unet_cct", f"--model {options.model}: HCE needs auxiliary "
               "decoders that read perturbed maps, which unet_cct has.")
    run.say("HCE is a reconstruction: its authors have published no code, and these losses and "
            "values are our reading of the abstract.")
    student = run.network("student", several_heads=True, by_depth=options.perturb == "depth")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    teacher.main_only = True
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
