"""Co-BioNet: dual views with critics (Peiris et al., Nature Machine Intelligence 5, 2023).

Two networks see the same images, and critics D_k tell, position by position, their foreground
probabilities s_k from reference masks. Each network learns from the other one (j = 3 - k), once
more where the other's critic takes what it says for a reference, and tries to deceive its own:

    L = sum_k v T(s_k(x_l), y_l) + w(t) * [B(s_k, s_j) + B(s_k, s_j; m_j) + u mean -ln D_k(s_k(x))]
    L_D = sum_k [mean -ln D_k(y_l) + mean -ln(1 - D_k(s_k(x)))] / 2,   x = x_l and x_u

B is binary cross-entropy on x_u, m_j = {D_j(s_j) > threshold}, T = B + Dice.

Page: docs/methods/co_bionet.md      python code/train_CoBioNet.py --dataset LA
"""
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn.functional import binary_cross_entropy, logsigmoid

from engine import NotNegative, Options, Positive, Presets, Run, Share, launch
from losses import batch_sums, plain_dice
from losses.overlap import one_hot


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: the last four options as released; the described method is the default."""
    consistency: NotNegative = 1.0
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 40.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    supervised_weight: NotNegative = 1.0
    """v, 0 or more."""
    adversarial_weight: NotNegative = 0.01
    """u, 0 or more."""
    threshold: Share = 0.4
    """What a critic must say of a position so that its network teaches there once more, 0 to 1."""
    critic_lr: Positive = 1e-4
    """Learning rate of the critics, constant; their optimizer is AdamW."""
    augment: Literal["dataset", "crop"] = "dataset"
    """The data set's own augmentation, or none but the crop (published on LA and Pancreas-CT)."""
    critics: Literal["trained", "untrained"] = "trained"
    """untrained: they stay as they were drawn (published code)."""
    difference: Literal["learned", "counted"] = "learned"
    """counted: B(s_k, s_j) has no gradient (published code)."""
    masked: Literal["each", "together"] = "each"
    """m_j counts each position, or is a factor, its mean (published code)."""
    rate: Literal["falls", "oscillates"] = "falls"
    """oscillates: --schedule cosine falls and rises in as many steps as there are epochs."""


PRESETS: Presets = {
    "3D": dict(model="vnet", schedule="cosine"),
    "LA": dict(max_iterations=15000, supervised_weight=0.7, augment="crop"),
    "Pancreas-CT": dict(max_iterations=15000, threshold=0.2, augment="crop"),
    "BraTS2019": dict(threshold=0.25),
    "published_code": dict(critics="untrained", difference="counted", masked="together",
                           rate="oscillates", schedule="cosine"),
}


def foreground(logits):
    """Probabilities of the foreground classes by their odds, (B, C - 1, *sides)."""
    rest = [torch.cat([logits[:, :c], logits[:, c + 1:]], 1).logsumexp(1)
            for c in range(1, logits.shape[1])]
    return (logits[:, 1:] - torch.stack(rest, 1)).sigmoid()


def of_labels(logits, labels):
    """T: binary cross-entropy and Dice of the foreground classes, over what is not ignored."""
    target, counted = one_hot(labels, logits.shape[1])
    s, target = foreground(logits) * counted, target[:, 1:]
    errors, count = batch_sums(binary_cross_entropy(s, target, reduction="sum"), counted.sum())
    dice = torch.stack([plain_dice(s[:, c], target[:, c]) for c in range(s.shape[1])]).mean()
    return errors / (count * s.shape[1]).clamp(min=1) + dice


def losses(models, critics, batch, weight, options):
    """The method: named terms of the loss; `total` is the networks', `critic` the critics'."""
    logits_l, logits_u = ([f(x) for f in models] for x in (batch.labeled, batch.unlabeled))
    s_u = [foreground(z) for z in logits_u]
    s = [foreground(model(batch.images)) for model in models]
    with torch.no_grad():
        trusted = [critic(one).sigmoid() > options.threshold for critic, one in zip(critics, s_u)]
    terms = dict.fromkeys(("total", "critic"), batch.images.new_zeros(()))
    reference = one_hot(batch.labels, logits_l[0].shape[1])[0][:, 1:]  # the ignored is background
    for k, j in ((0, 1), (1, 0)):
        errors = binary_cross_entropy(s_u[k], s_u[j].detach(), reduction="none")
        difference = errors.mean() if options.difference == "learned" else errors.mean().detach()
        masked = ((trusted[j] * errors).mean() if options.masked == "each"
                  else trusted[j].float().mean() * errors.mean())
        supervised = options.supervised_weight * of_labels(logits_l[k], batch.labels)
        adversarial = -logsigmoid(critics[k](s[k])).mean()
        unsupervised = difference + masked + options.adversarial_weight * adversarial
        terms["total"] = terms["total"] + supervised + weight * unsupervised
        real, fake = critics[k](reference), critics[k](s[k].detach())
        judged = (-logsigmoid(real).mean() - logsigmoid(-fake).mean()) / 2
        terms["critic"] = terms["critic"] + judged
        terms |= {f"{name}_{k + 1}": value for name, value in (
            ("supervised", supervised), ("difference", difference), ("masked", masked),
            ("adversarial", adversarial), ("critic", judged), ("trusted", trusted[k].float()))}
    return {**terms, "pseudo_labels": torch.stack([z.detach().argmax(1) for z in logits_u])}


def main(options: Method) -> None:
    run = Run(options)
    name = f"point_critic_{run.data.dimensions}D"
    models = [run.network("model1"), run.network("model2")]
    critics = [run.network("critic1", model=name), run.network("critic2", model=name)]
    epochs = options.max_iterations // max(len(run.items(True)) // options.labeled_bs, 1) + 1
    stretch = epochs / options.max_iterations if options.rate == "oscillates" else 1.0
    optimizers = [run.optimizer(f"model{k}", f, stretch=stretch) for k, f in enumerate(models, 1)]
    critic_optimizers = [run.optimizer(f"critic{k}", d, kind="adamw", lr=options.critic_lr,
                                       schedule="constant") for k, d in enumerate(critics, 1)]
    step_losses = run.compiled(losses)
    run.evaluates(ensemble="mean_probabilities", model1=models[0], model2=models[1])

    for step, batch in run.batches(recipe="none" if options.augment == "crop" else None):
        weight = options.consistency * run.ramp(step + 1, options.consistency_rampup)
        terms = step_losses(models, critics, batch, weight, options)
        run.update(optimizers, terms)
        if options.critics == "trained":
            run.update(critic_optimizers, terms, minimise="critic")
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
