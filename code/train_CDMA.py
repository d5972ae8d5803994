"""CDMA: cross-distillation with multiple attentions (Zhong et al., MICCAI 2023, arXiv 2305.18830).

One encoder, K = 3 decoders that attend to channels and places, to places, to channels. Besides the
labels each learns what the others say, softened by a high temperature T; and what all say together
is to be sure. After the first tenth of the training:

    L = mean_k S(z_k(x_l), y_l) + w * [D + H],   S = (CE + Dice) / 2,   q_k = softmax(z_k / T)
    D = T^2 / K * sum_{i != j} mean KL(q_j || q_i), q_j held fixed
    H = mean of the entropy of p, in bits,   p = mean_k softmax z_k

D and H are means over all images, labelled ones too.

Page: docs/methods/cdma.md      python code/train_CDMA.py --dataset NEU-Seg
"""
from dataclasses import dataclass
from itertools import permutations
from math import log

import torch

from engine import NotNegative, Options, Positive, Presets, Run, Share, launch
from losses import entropy_map, softmax_kl, supervised_loss
from networks import grouped, logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """w, 0 or more; constant."""
    labels_first: Share = 0.1
    """Share of the training in which labels alone count."""
    temperature: Positive = 10.0
    """T, above 0."""
    stored_norm: bool = False
    """The pretrained encoder's batch norm keeps its statistics (published)."""


PRESETS: Presets = {
    "2D": dict(model="unet_cdma", schedule="quarters"),
    "defect": dict(schedule="plateau"),
}


def rate_of(name):
    """By what the rate of a parameter is multiplied where the encoder is pretrained."""
    return (1 if name.startswith("backbone.") else 10) * (2 if name.endswith("bias") else 1)


def distilled(heads, temperature):
    """D: each head (B, C, *sides) learns from each other one, which is held fixed."""
    soft = [logits / temperature for logits in heads]
    each = [softmax_kl(z_i, z_j.detach()).sum(1).mean() for z_j, z_i in permutations(soft, 2)]
    return temperature**2 * sum(each) / len(heads)


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    heads = [torch.cat(both) for both in zip(logits_l, logits_u)]
    p = torch.stack([logits.softmax(1) for logits in heads]).mean(0)

    each = [supervised_loss(logits, batch.labels, options.dice) for logits in logits_l]
    supervised = sum(each) / len(each)
    distillation = distilled(heads, options.temperature)
    entropy = entropy_map(p).mean() / log(2)
    unsupervised = weight * (distillation + entropy)
    return {"total": supervised + unsupervised, "supervised": supervised,
            "unsupervised": unsupervised, "distillation": distillation, "entropy": entropy,
            "mean_prediction": p[:, 1]}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"CDMA has no network for volumes, and {run.data.name} "
               "has volumes; train_URPC.py compares several predictions of one network, and takes "
               "them.")
    run.refuse(options.model not in ("unet_cdma", "mtnet"), f"--model {options.model}: CDMA has "
               "three decoders with attention, which unet_cdma and mtnet have.")
    run.refuse(options.stored_norm and not (options.pretrained and options.model == "mtnet"),
               "--stored_norm: statistics to keep are those of a pretrained encoder; give --model "
               "mtnet and --pretrained FILE.")
    given: dict = {"stored_norm": True} if options.stored_norm else {}
    network = run.network("network", several_heads=True, **given)
    sgd = options.optimizer == "sgd"
    parts = grouped(network, rate_of) if options.pretrained else network
    optimizer = run.optimizer("network", parts, weight_decay=5e-4 if sgd else None, nesterov=sgd)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        started = step / options.max_iterations >= options.labels_first
        terms = step_losses(network, batch, options.consistency * started, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
