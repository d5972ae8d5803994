"""CCT: cross-consistency training (Ouali et al., CVPR 2020, arXiv 2003.09005), as SSL4MIS has it.

One encoder feeds four decoders. The auxiliary ones a_1, a_2, a_3 read its feature maps h perturbed:
by noise, by dropout, and without the most active places. All four learn from the labels; on the
unlabelled images they must agree with the main one g:

    L = mean_{d in g, a_k} S(d(h(x_l)), y_l)
        + w(t) * mean_k mean |softmax g(h(x_u)) - softmax a_k(perturbed_k h(x_u))|^2
    S = (CE + Dice) / 2

Page: docs/methods/cct.md      python code/train_CCT.py --dataset ACDC
Score: Dice 0.750 on Phantom: python code/compare.py --methods CCT --seeds 1
"""
from dataclasses import dataclass
from typing import Annotated

from engine import NotNegative, Options, Presets, Run, Within, launch
from losses import softmax_mse, supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    stop_grad_main: bool = False
    """Draw the auxiliary decoders to the main one only, as in the paper (published code: both)."""
    feature_noise: NotNegative = 0.3
    """First auxiliary decoder: largest relative change of a feature, 0 or more."""
    feature_rate: Annotated[float, Within(0, 1, open_high=True)] = 0.3
    """Second auxiliary decoder: share of the features that are set to 0, 0 to 1."""
    feature_attention: Annotated[tuple[float, float], Within(0)] = (0.7, 0.9)
    """Third auxiliary decoder: places as active as this share of the largest activation are set to
    0; drawn between the two."""


PRESETS: Presets = {
    "2D": dict(model="unet_cct"),
    "NEU-Seg": dict(base_lr=2e-3, max_iterations=35341, patience=40),
}
PERTURBED = ("noise", "dropout", "attention")


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    main, *auxiliary = logits_u
    target = main.detach() if options.stop_grad_main else main
    parts = {f"consistency_{name}": softmax_mse(logits, target).mean()
             for name, logits in zip(PERTURBED, auxiliary)}

    each = [supervised_loss(logits, batch.labels, options.dice) for logits in logits_l]
    supervised = sum(each) / len(each)
    consistency = sum(parts.values()) / len(parts)
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency, **parts}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"CCT has no network for volumes, and {run.data.name} has "
               "volumes; nobody has published one. URPC (code/train_URPC.py) also asks several "
               "predictions of one network to agree, and takes volumes.")
    run.refuse(options.model != "unet_cct", f"--model {options.model}: CCT needs auxiliary "
               "decoders, which unet_cct alone has.")
    low, high = options.feature_attention
    run.refuse(low > high, f"--feature_attention {low} {high}: the smaller share stands first.")
    network = run.network("network", several_heads=True, noise=options.feature_noise,
                          rate=options.feature_rate, attention=(low, high))
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
