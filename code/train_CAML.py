"""CAML: correlation-aware mutual learning (Gao et al., MICCAI 2023, arXiv 2307.06312).

Two networks teach each other; the second one mixes the samples of the batch by attention in train
mode. Both must also say the same of how an unlabelled position is correlated with remembered
features of labelled ones: r_k = softmax h_k(g_k) M / tau, g_k features, h_k heads, M the memory.

    L = v [D(f_1(x_l), y_l) + D(f_2(x_l), y_l)] + w(t) * [mean |p_1 - S(p_2)|^2
        + mean |p_2 - S(p_1)|^2 + u mean -r_2 ln r_1],   S(p) = p^(1/T) / sum_c p^(1/T)

p_k = softmax f_k(x), x = x_l and x_u; D is the Dice of the foreground. The mean of r is over the
surest positions of x_u about which both agree; M are positions of x_l that both get right.

Page: docs/methods/caml.md      python code/train_CAML.py --dataset LA
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import Count, NotNegative, Options, Positive, Presets, Run, launch
from losses import sharpened
from losses.correlation import Memory, correlation, surest
from losses.overlap import plain_foreground_dice
from networks import feature_channels, logits_and_features


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: --second_features cut, of which the paper does not speak."""
    model2: str = "vnet_cma"
    """The network with attention: vnet_cma for volumes, unet_cma for images."""
    consistency: NotNegative = 1.0
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 40.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    supervised_weight: NotNegative = 0.5
    """v, 0 or more."""
    correlation_weight: NotNegative = 0.05
    """u, 0 or more."""
    temperature: Positive = 0.1
    """T, above 0; 1 leaves predictions as they are, less makes them surer."""
    correlation_temperature: Positive = 0.1
    """tau, above 0."""
    memory_per_class: Count = 256
    """Vectors of each class that M has; a class of which fewer are remembered is left out."""
    positions_per_class: Count = 12800
    """Most positions of each class that are compared with M, the surest."""
    stored: Count = 4096
    """Most vectors of each class that are remembered of an image."""
    second_features: Literal["positions", "cut"] = "positions"
    """What is remembered of the second network: features of positions, or its block of numbers cut
    into rows as it lies in memory, across channels (published code)."""


PRESETS: Presets = {
    "2D": dict(model="unet_transposed", model2="unet_cma", stored=256),
    "3D": dict(model="vnet", schedule="constant"),
    "LA": dict(max_iterations=15000),
    "published_code": dict(second_features="cut"),
}


@torch.no_grad()
def remember(memory, heads, features, right, batch, options):
    """Takes the positions of labelled images that both networks get right into the memory."""
    found = {}
    for row, labels in enumerate(batch.labels):
        at = memory.chosen(labels, right[row], batch.rng)
        first, second = (maps[row].flatten(1).T for maps in features)
        if options.second_features == "cut":
            second = features[1][row].reshape(second.shape)
        vectors = (heads[0](first[at], True) + heads[1](second[at], True)) / 2
        found[batch.cases[row]] = {"vectors": vectors, "classes": labels.flatten()[at]}
    memory.remember(found)


def losses(model1, model2, heads, memory, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits1, features1 = logits_and_features(model1, batch.images)
    logits2, features2 = logits_and_features(model2, batch.images)
    p1, p2, said1 = logits1.softmax(1), logits2.softmax(1), logits1.argmax(1)
    agree = said1 == logits2.argmax(1)
    right = agree[:n] & (said1[:n] == batch.labels)
    remember(memory, heads, (features1[:n], features2[:n]), right, batch, options)
    known = memory.drawn(options.memory_per_class, batch.rng)

    supervised = sum(plain_foreground_dice(z[:n], batch.labels, 1e-8) for z in (logits1, logits2))
    consistency = (((p1 - sharpened(logits2, options.temperature)) ** 2).mean()
                   + ((p2 - sharpened(logits1, options.temperature)) ** 2).mean())
    correlations, agree_u = p1.new_zeros(()), agree[n:]
    if known is not None and agree_u.sum() > 1:
        chosen = surest(said1[n:][agree_u], p1[n:].amax(1)[agree_u].detach(),
                        options.positions_per_class)
        rows = [head(maps[n:].movedim(1, -1)[agree_u])[chosen]
                for head, maps in zip(heads, (features1, features2))]
        r1, r2 = (correlation(x, known, options.correlation_temperature) for x in rows)
        correlations = -(r2 * (r1 + 1e-8).log()).sum(1).mean()
    total = (options.supervised_weight * supervised
             + weight * (consistency + options.correlation_weight * correlations))
    return {"total": total, "supervised": supervised, "consistency": consistency,
            "correlations": correlations, "pseudo_labels": said1[n:], "mask": agree_u}


def main(options: Method) -> None:
    run = Run(options)
    unread = {"pnet", "nnunet", "nnunet_2D", "attention_unet"} & {options.model, options.model2}
    run.refuse(unread, "CAML's heads read what the one last convolution of a network reads, and "
               f"{' and '.join(sorted(unread))} ends otherwise: choose another network.")
    model1, model2 = run.network("model1"), run.network("model2", model=options.model2)
    channels, sides = run.data.channels, options.patch_size
    widths = [feature_channels(f, channels, sides) for f in (model1, model2)]
    heads = [run.network(f"heads{k}", model="caml_heads", features=width)
             for k, width in enumerate(widths, 1)]
    memory = run.keep("memory", Memory(options.stored, run.device))
    optimizer = run.optimizer("model1", [(part, 1.0) for part in (model1, model2, *heads)])
    step_losses = run.compiled(losses)
    run.evaluates(model1=model1, model2=model2)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step + 1, options.consistency_rampup)
        terms = step_losses(model1, model2, heads, memory, batch, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
