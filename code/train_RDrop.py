"""R-Drop: regularised dropout (Liang et al., NeurIPS 2021, arXiv 2106.14448), for segmentation.

Every image goes through the network twice. The two predictions differ by their dropout masks alone,
and on unlabelled images they must agree:

    L = m/2 * [S(f_1(x_l), y_l) + S(f_2(x_l), y_l)] + w(t)/C * mean (KL_12 + KL_21) / 2
    KL_jk = KL(softmax f_j(x_u) || softmax f_k(x_u)),   S = (CE + Dice) / 2

m is the number of networks: f_1 and f_2 are two passes of one (m = 1), or two networks (m = 2).

Page: docs/methods/rdrop.md      python code/train_RDrop.py --dataset ACDC
Score: Dice 0.828 on Phantom: python code/compare.py --methods RDrop --seeds 1
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from losses import supervised_loss, symmetric_kl
from networks import frozen_copy, logits_of
from networks.initial import start_apart


@dataclass
class Method(Options):
    consistency: NotNegative = 4.0
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    rdrop_axis: Literal["class", "last"] = "class"
    """Axis of the softmax in the divergence: the classes, or the last axis of the image, by whose
    length it is divided."""
    rdrop_models: Literal[1, 2] = 1
    """Networks: one, asked twice under dropout, or two."""
    rdrop_rows: Literal["unlabeled", "all"] = "unlabeled"
    """Images of the divergence: the unlabelled ones, or all."""
    init: Literal["default", "kaiming_xavier"] = "default"
    """Initial weights: the networks' own, or Kaiming and Xavier normal (published in 3D)."""
    variant: Literal["default", "published_code"] = "default"
    """default: the paper's. published_code: two networks and the last axis, as SSL4MIS has it."""


PRESETS: Presets = {
    "2D": dict(schedule="poly_next"),
    "3D": dict(schedule="poly_next", init="kaiming_xavier"),
    "LA": dict(schedule="step"),
    "Pancreas-CT": dict(schedule="step"),
    "defect": dict(schedule="plateau"),
    "published_code": dict(rdrop_models=2, rdrop_axis="last"),
}


@torch.no_grad()
def is_random(network, channels, sides):
    """Whether two passes of the network in train mode differ, tried on a copy, since passes change
    the statistics of batch norm."""
    twin = frozen_copy(network).train()
    images = torch.randn(2, channels, *sides, device=next(network.parameters()).device)
    return not torch.equal(twin(images), twin(images))


def losses(model1, model2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised. Of one
    network both passes: `model2` is `model1`."""
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, batch.labeled, batch.unlabeled, options.passes)
    first, second = logits1_u, logits2_u
    if options.rdrop_rows == "all":
        first, second = torch.cat([logits1_l, logits1_u]), torch.cat([logits2_l, logits2_u])

    supervised = {"supervised_1": supervised_loss(logits1_l, batch.labels, options.dice),
                  "supervised_2": supervised_loss(logits2_l, batch.labels, options.dice)}
    divergence = symmetric_kl(first, second, 1 if options.rdrop_axis == "class" else -1).mean()
    total = options.rdrop_models / 2 * sum(supervised.values()) + weight * divergence
    return {"total": total, **supervised, "divergence": divergence}


def main(options: Method) -> None:
    run = Run(options)
    alone = options.rdrop_models == 1
    roles = ["network"] if alone else ["model1", "model2"]
    models = [run.network(role) for role in roles]
    run.refuse(alone and not is_random(models[0], run.data.channels, options.patch_size),
               f"--model {options.model} --dropout {options.dropout:g}: without dropout both "
               "passes of a network are equal. Choose another network, or --rdrop_models 2.")
    if options.init == "kaiming_xavier" and not alone:
        start_apart(*models)
    optimizers = [run.optimizer(role, model) for role, model in zip(roles, models)]
    step_losses = run.compiled(losses)
    ensemble = {} if alone else {"ensemble": "mean_logits"}
    run.evaluates(by_validation=not alone, **dict(zip(roles, models)), **ensemble)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(models[0], models[-1], batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
