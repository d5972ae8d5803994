"""MLB-Seg: meta-learning with label bootstrapping (Wei et al., MICCAI 2023, arXiv 2307.11604).

A first stage learns from the clean labels and writes noisy ones, y, for all other images. Then each
pixel of y, and of q, the class that five views of the image find likeliest together, has a weight:
how much a step of SGD that takes it into account lowers the loss on clean labels.

    L = sum w [-ln p_y, -ln p_q] + A(x_u),   then another step with   L_c = CE(f(x_l), y_l) + A(x_l)
    w = max(-g, 0) / sum max(-g, 0),   g = d CE(f_e(x_l), y_l) / d e   at e = 0
    f_e = f after one step of SGD with   sum e [-ln p_y, -ln p_q] + A(x_u)
    A(x) = mean |p - m|^2 + mean |p - softmax f'(x + n)|^2,   p = softmax f(x)

x are the views, m is the mean of p over the views of a position, f' the moving average of f.

Page: docs/methods/mlb_seg.md      python code/train_MLBSeg.py --dataset PROMISE12
"""
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dataloaders.augmentation.reversible import five_views, said_together, viewed, viewed_labels
from engine import NotNegative, Options, Positive, Presets, Run, Share, Steps, launch
from engine.first_stage import supervised_stage
from losses import batch_sum, cross_entropy, softmax_mse
from losses.supervised import helpful, label_costs, meta_gradient
from networks import ema_update, frozen_copy, with_parameters


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: --ema_restarts, of which the paper does not speak."""
    pre_iterations: Steps = 10000
    """Steps of the first stage, on labelled images alone; --max_iterations is the second's."""
    weight_decay: NotNegative = 5e-4
    """Of SGD, in the step that is tried out too."""
    clip: Positive = 0.2
    """Largest norm of a gradient."""
    noise: NotNegative = 0.02
    """Standard deviation of the Gaussian noise n."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    ema_restarts: bool = False
    """The average begins anew, with the network itself, at each pass over the noisy images."""


ALWAYS = dict(batch_size=3, labeled_bs=2, optimizer="sgd", base_lr=0.005, schedule="inverse")
PRESETS: Presets = {
    "2D": ALWAYS, "3D": ALWAYS, "PROMISE12": dict(patch_size=(144, 144)),
    "Phantom": dict(batch_size=4, base_lr=0.01, pre_iterations=350),
    "published_code": dict(ema_restarts=True),
}


def agreement(logits, teacher, images, scales, options):
    """A; and the class that all views together find likeliest, 255 where a view shows none."""
    with torch.no_grad():
        target = teacher(images + options.noise * torch.randn_like(images))
    p = logits.softmax(1)
    together, inside = said_together(p.detach(), scales)
    views = (inside * (p - together) ** 2).sum() / (inside.sum() * p.shape[1])
    pseudo = together.argmax(1).masked_fill(~inside[:, 0], 255)
    return views + softmax_mse(logits, target).mean(), pseudo


def losses(student, teacher, optimizer, batch, scales, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    images, clean = viewed(batch.unlabeled, scales["u"]), viewed(batch.labeled, scales["l"])
    noisy = viewed_labels(batch.maps["noisy"][batch.n_labeled :], scales["u"])
    logits, labels = student(images), viewed_labels(batch.labels, scales["l"])
    agreed, pseudo = agreement(logits, teacher, images, scales["u"], options)
    cost = label_costs(logits, noisy, pseudo)

    def clean_loss(ahead):
        return cross_entropy(with_parameters(student, ahead, clean), labels)

    gradient, meta = meta_gradient(cost, agreed, list(student.parameters()), optimizer.ahead,
                                   optimizer.rate, clean_loss)
    weights = helpful(gradient)
    bootstrapped = batch_sum((weights * cost).sum())
    return {"total": bootstrapped + agreed, "bootstrapped": bootstrapped, "agreement": agreed,
            "meta": meta, "noisy_share": batch_sum(weights[:, 0].sum()), "pseudo_labels": pseudo,
            "mask": (weights > 0).any(1)}


def clean_losses(student, teacher, batch, scales, options):
    """The terms of the second step, on labelled images."""
    clean = viewed(batch.labeled, scales["l"])
    logits = student(clean)
    supervised = cross_entropy(logits, viewed_labels(batch.labels, scales["l"]))
    agreed, _ = agreement(logits, teacher, clean, scales["l"], options)
    return {"clean_total": supervised + agreed, "supervised": supervised}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.optimizer != "sgd" or options.precision != "32" or options.compile
               or options.sync_bn, "MLB-Seg differentiates a step of SGD, so it needs --optimizer "
               "sgd and second derivatives, which --precision bf16-mixed rounds away, and which "
               "--compile and --sync_bn do not have: leave these options out.")
    student = run.network("student")
    first = supervised_stage(run, options.pre_iterations, cross_entropy,
                             weight_decay=options.weight_decay)
    noisy = run.predict_unlabeled("noisy", first,
                                  maps={"noisy": lambda p: p.argmax(0).astype(np.uint8)})
    student.load_state_dict(first.state_dict())
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student, weight_decay=options.weight_decay,
                              clip=options.clip)
    step_losses, step_clean_losses = run.compiled(losses), run.compiled(clean_losses)
    run.evaluates(student=student, teacher=teacher)

    a_pass = max(len(noisy) // (options.batch_size - options.labeled_bs), 1)
    for step, batch in run.batches(unlabeled=noisy, maps={"noisy": 255.0}):
        rows = {"l": batch.n_labeled, "u": len(batch.unlabeled)}
        scales = {k: five_views(batch.rng, n, run.data.dimensions) for k, n in rows.items()}
        updates = step % a_pass if options.ema_restarts else step
        terms = step_losses(student, teacher, optimizer, batch, scales, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, updates, options.ema_decay)
        clean = step_clean_losses(student, teacher, batch, scales, options)
        run.update(optimizer, clean, minimise="clean_total")
        ema_update(teacher, student, updates, options.ema_decay)
        run.after_step(step, {**terms, **clean})
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
