"""DHC: dual-debiased heterogeneous co-training (Wang and Li, MICCAI 2023, arXiv 2307.11960).

Cross pseudo supervision for rare classes. What makes the two networks differ are the weights v that
classes have in their losses: of the first by how hard a class is to learn (its Dice on labels, and
whether that rises), of the second by how rare it is (in its own pseudo-labels):

    L = sum_k [CE_vk + D_vk](f_k(x_l), y_l) + w(t) * [CE_v1(f_1(x), q_2) + CE_v2(f_2(x), q_1)]
    q_k = argmax f_k(x),   x = x_l and x_u,   D_v = -mean_c v_c Dice_c

Page: docs/methods/dhc.md      python code/train_DHC.py --dataset BraTS2019
"""
from dataclasses import dataclass

import torch

from engine import NotNegative, Options, Presets, Run, Share, launch
from engine.schedules import EPOCHS, epoch_before, sigmoid_rampup
from losses.class_weights import (
    DifficultyWeights,
    FrequencyWeights,
    weighted_cross_entropy,
    weighted_dice,
)
from networks import logits_of
from networks.initial import start_kaiming


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term at the end, 0 or more; it rises over all of the training."""
    difficulty_keep: Share = 49 / 50
    """Share of the past in what tells how hard a class is, 0 to 1."""
    frequency_keep: Share = 0.99
    """Share of the past in what tells how rare a class is, 0 to 1."""
    least_count: NotNegative = 0.0
    """Least pixels that a class counts as having in the pseudo-labels of a step, 0 or more. With 0
    (published) a class that is absent takes almost all the weight of that step; 1 avoids it."""


SGD = dict(base_lr=0.03, schedule="poly_epochs")
"""The published rate, where the data set's own optimizer is SGD."""

PRESETS: Presets = {
    "3D": dict(model="vnet_32", **SGD),
    **dict.fromkeys(("ACDC", "PROMISE12", "ISIC", "folder", "nnunet2D", "Phantom"), SGD),
    "Phantom3D": dict(model="vnet"),
}


def losses(model1, model2, difficulty, frequency, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, batch.labeled, batch.unlabeled, options.passes)
    logits1, logits2 = torch.cat([logits1_l, logits1_u]), torch.cat([logits2_l, logits2_u])
    pseudo1, pseudo2 = (z.detach().argmax(1) for z in (logits1, logits2))
    v1, v2 = difficulty.seen(logits1_l, batch.labels), frequency.seen(logits2_u)

    def learn(logits, labels, v):
        return weighted_cross_entropy(logits, labels, v) + weighted_dice(logits, labels, v)

    supervised = {"supervised_1": learn(logits1_l, batch.labels, v1),
                  "supervised_2": learn(logits2_l, batch.labels, v2)}
    pseudo = {"pseudo_1": weighted_cross_entropy(logits1, pseudo2, v1),
              "pseudo_2": weighted_cross_entropy(logits2, pseudo1, v2)}
    total = sum(supervised.values()) + weight * sum(pseudo.values())
    n = batch.n_labeled
    return {"total": total, **supervised, **pseudo, "class_weights": torch.stack([v1, v2]),
            "pseudo_labels": torch.stack([pseudo1[n:], pseudo2[n:]])}


def main(options: Method) -> None:
    run = Run(options)
    model1, model2 = run.network("model1"), run.network("model2")
    start_kaiming(model1, model2)
    decay = 3e-5 if options.optimizer == "sgd" else None
    optimizers = [run.optimizer(role, model, nesterov=True, weight_decay=decay)
                  for role, model in (("model1", model1), ("model2", model2))]
    counts = torch.as_tensor(run.class_counts(), device=run.device)
    difficulty = run.keep("difficulty", DifficultyWeights(run.data.num_classes, run.device,
                                                          options.difficulty_keep))
    frequency = run.keep("frequency", FrequencyWeights(counts, options.frequency_keep,
                                                       options.least_count))
    step_losses = run.compiled(losses)
    run.evaluates(ensemble="mean_logits", model1=model1, model2=model2)

    for step, batch in run.batches():
        epoch = epoch_before(step, options.max_iterations)
        weight = options.consistency * sigmoid_rampup(epoch, EPOCHS)
        terms = step_losses(model1, model2, difficulty, frequency, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
