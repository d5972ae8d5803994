"""DAN: deep adversarial network (Zhang et al., MICCAI 2017).

A critic D looks at an image and the map that was predicted for it, and tells whether the image is a
labelled one. The network learns from labels, and to predict maps of unlabelled images that the
critic takes for those of labelled ones:

    L = S(f(x_l), y_l) + w(t) * CE(D(softmax f(x_u), x_u), 1),   S = (CE + Dice) / 2
    L_D = CE(D(softmax f(x), x), is x labelled?)

Page: docs/methods/dan.md      python code/train_DAN.py --dataset ACDC
Score: Dice 0.817 on Phantom: python code/compare.py --methods DAN --seeds 1
"""
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from engine import NotNegative, Options, Positive, Presets, Run, launch
from losses import supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    DAN_lr: Positive = 1e-4
    """Learning rate of the critic, constant; its optimizer is Adam with betas 0.9 and 0.99."""


PRESETS: Presets = {
    "NEU-Seg": dict(max_iterations=35341, patience=40),
}


def labeled_or_not(batch):
    """What the critic should say of each row: 1 where it is labelled, else 0; (B,) int64."""
    return (torch.arange(len(batch.images), device=batch.images.device) < batch.n_labeled).long()


def losses(segmenter, critic, batch, weight, options):
    """The segmenter: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(segmenter, batch.labeled, batch.unlabeled, options.passes)
    verdicts = critic(logits_u.softmax(1), batch.unlabeled)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    adversarial = F.cross_entropy(verdicts, torch.ones_like(verdicts[:, 0], dtype=torch.long))
    total = supervised + weight * adversarial
    return {"total": total, "supervised": supervised, "adversarial": adversarial}


def critic_losses(segmenter, critic, batch, options):
    """The critic. One mean over all images, or the sum of the means over labelled and over
    unlabelled ones (`passes` apart)."""
    with torch.no_grad():
        p = segmenter(batch.images).softmax(1)
    verdicts, truth, n = critic(p, batch.images), labeled_or_not(batch), batch.n_labeled

    errors = F.cross_entropy(verdicts, truth, reduction="none")
    loss = errors.mean() if options.passes == "joint" else errors[:n].mean() + errors[n:].mean()
    right = (verdicts.detach().argmax(1) == truth).float().mean()
    return {"critic": loss, "critic_accuracy": right}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(min(options.patch_size) < 16,
               f"--patch_size {' '.join(map(str, options.patch_size))}: the critic halves every "
               "side four times; choose sides of 16 or more.")
    segmenter = run.network("segmenter")
    critic = run.network("critic", model=f"discriminator_{run.data.dimensions}D")
    optimizer = run.optimizer("segmenter", segmenter)
    critic_optimizer = run.optimizer("critic", critic, kind="adam", lr=options.DAN_lr,
                                     betas=(0.9, 0.99), schedule="constant")
    step_losses, step_critic_losses = run.compiled(losses), run.compiled(critic_losses)
    run.evaluates(segmenter=segmenter)

    for step, batch in run.batches():
        critic.eval()
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(segmenter, critic, batch, weight, options)
        run.update(optimizer, terms)

        segmenter.eval()  # the critic learns from what the updated network predicts in a test
        critic.train()
        critic_terms = step_critic_losses(segmenter, critic, batch, options)
        run.update(critic_optimizer, critic_terms, minimise="critic")
        run.after_step(step, {**terms, **critic_terms})
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
