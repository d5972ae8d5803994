"""UAPS: uncertainty-aware pseudo-labels from several decoders (Sime et al., Computers in Industry
2023).

One encoder feeds K = 4 decoders, of which the auxiliary ones read its maps perturbed. They label
unlabelled images together, with weights m drawn anew each step, and count the less the further a
decoder's p_k strays from their mean p, from which it shall not stray:

    L = mean_k S(f_k(x_l), y_l) + w(t) * mean_k [S(f_k(x_u), q) * mean e^-V_k] + u(t) * mean V_k
    q = argmax sum_k m_k p_k,  m ~ Dirichlet(1, ..., 1),  V_k = KL(p || p_k),  S = (CE + Dice) / 2

Page: docs/methods/uaps.md      python code/train_UAPS.py --dataset NEU-Seg
"""
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import numpy as np
import torch

from dataloaders.augmentation.strong_views import on
from engine import Count, NotNegative, Options, Presets, Run, Within, launch
from losses import batch_mean, supervised_loss
from losses.pseudo_labels import damped_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the pseudo-labels once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of --rampup_unit steps; 0: the weight is constant."""
    rampup_unit: Count = 150
    """Steps in a unit of the ramp."""
    uncertainty_weight: NotNegative = 0.1
    """Weight of the divergence, 0 or more; it has the same ramp."""
    uncertainty_ramp: bool = True
    """Whether it has (published for MT: no)."""
    decoders: Annotated[int, Within(1, 3)] = 3
    """Auxiliary decoders, 1 to 3."""
    mixing: Literal["drawn", "mean"] = "drawn"
    """The m: drawn, or equal (the authors' average mixing)."""
    damping: Literal["mean", "pixel"] = "mean"
    """What e^-V multiplies: the loss, by its mean (published code), or each pixel's cross-entropy
    (the idea)."""


PRESETS: Presets = {
    "2D": dict(model="unet_cct"),
    "NEU-Seg": dict(rampup_unit=80),
    "DAGM": dict(rampup_unit=60, base_lr=1e-3, steps_per_epoch=29, val_every=29,
                 max_iterations=23171),
    "MT": dict(rampup_unit=50, uncertainty_weight=1.0, uncertainty_ramp=False, steps_per_epoch=19,
               val_every=19, max_iterations=15181),
}


def losses(network, batch, shares, weight, uncertainty_weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    log_p = torch.stack([logits.log_softmax(1) for logits in logits_u])
    log_mean = log_p.logsumexp(0) - log(len(log_p))
    divergence = (log_mean.exp() * (log_mean - log_p)).sum(2)
    pseudo_u = torch.einsum("k,kb...->b...", shares, log_p.detach().exp()).argmax(1)

    each = [supervised_loss(logits, batch.labels, options.dice) for logits in logits_l]
    supervised = sum(each) / len(each)
    damped = [damped_loss(logits, pseudo_u, v, options.dice, options.damping)
              for logits, v in zip(logits_u, divergence)]
    pseudo = sum(damped) / len(damped)
    uncertainty = batch_mean(divergence.mean())
    total = supervised + weight * pseudo + uncertainty_weight * uncertainty
    parts = {f"pseudo_{k}": value for k, value in enumerate(damped)}
    parts |= {f"divergence_{k}": value.mean() for k, value in enumerate(divergence)}
    return {"total": total, "supervised": supervised, "pseudo": pseudo,
            "uncertainty": uncertainty, **parts, "pseudo_labels": pseudo_u}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"UAPS has no network for volumes, and {run.data.name} "
               "has volumes; train_URPC.py compares several predictions of one network, and takes "
               "them.")
    run.refuse(options.model != "unet_cct", f"--model {options.model}: UAPS needs auxiliary "
               "decoders, which unet_cct has.")
    network = run.network("network", several_heads=True, auxiliary=options.decoders)
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    heads = 1 + options.decoders
    for step, batch in run.batches():
        drawn = batch.shared_rng.dirichlet([1.0] * heads)
        mixing = drawn if options.mixing == "drawn" else np.full(heads, 1 / heads)
        shares = on(batch.images, mixing)
        ramp = run.ramp(step, options.consistency_rampup, options.rampup_unit)
        further = options.uncertainty_weight * (ramp if options.uncertainty_ramp else 1)
        terms = step_losses(network, batch, shares, options.consistency * ramp, further, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
