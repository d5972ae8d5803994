"""URPC: uncertainty rectified pyramid consistency (Luo et al., MICCAI 2021, arXiv 2012.07042).

One network predicts at four scales of its decoder. Each learns from the labels; on the unlabelled
images each must agree with the mean m of all, where it strays little more than where it strays far,
and how far it strays is made small too:

    L = mean_s S(f_s(x_l), y_l) + w(t) * mean_s [mean(E_s |m - softmax f_s(x_u)|^2) / mean(E_s)
                                                 + mean(V_s)]
    V_s = KL(m || softmax f_s(x_u)) at each position,   E_s = exp(-V_s),   S = (CE + Dice) / 2

Page: docs/methods/urpc.md      python code/train_URPC.py --dataset ACDC
Score: Dice 0.642 on ACDC at 64x64, 2,000 steps, 5 min on two CPU cores (results/acdc_small.md)
"""
from dataclasses import dataclass
from math import log
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from losses import batch_mean, supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    variant: Literal["default", "published_code"] = "default"
    """Volumes: default ramps up until the last of 30000 steps; published_code over 60000, however
    long training is. Images: the same."""


PRESETS: Presets = {
    "2D": dict(model="unet_urpc"),
    "3D": dict(model="unet_3D_dv_semi", base_lr=0.1),
    "LA": dict(base_lr=0.01),
    "Pancreas-CT": dict(base_lr=0.01),
    "published_code_3D": dict(consistency_rampup=400.0),
}


def rectified(scales):
    """(the term of each scale, the mean of its V_s) from logits (B, C, *sides) a scale. Gradients
    flow to all scales from every term."""
    log_p = torch.stack([logits.log_softmax(1) for logits in scales])
    # The logarithm of the mean softmax is finite where every softmax is 0 in single precision.
    log_mean = log_p.logsumexp(0) - log(len(scales))
    p, mean = log_p.exp(), log_mean.exp()
    variance = (mean * (log_mean - log_p)).sum(2, keepdim=True)
    trust = (-variance).exp()
    squares = batch_mean(((mean - p) ** 2 * trust).flatten(1).mean(1))
    variances = variance.flatten(1).mean(1)
    return squares / (batch_mean(trust.flatten(1).mean(1)) + 1e-8) + variances, variances


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    parts, variances = rectified(logits_u)

    each = [supervised_loss(logits, batch.labels, options.dice) for logits in logits_l]
    supervised = sum(each) / len(each)
    consistency = parts.mean()
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency,
            "variance": variances.mean()}


def main(options: Method) -> None:
    run = Run(options)
    if options.variant == "published_code" and run.data.dimensions == 2:
        run.say("On images the default is the published code: --variant published_code changes "
                "nothing.")
    network = run.network("network", several_heads=True)
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(network, batch, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
