"""FSSL-PLD: federated semi-supervised learning with denoised pseudo-labels (Qiu et al., IEEE JBHI
2023). A reconstruction: no code is public, and we know the abstract alone.

Sites never share images. A round: every site k starts from the server's network F, learns on its
own images for some steps, and the server takes the mean of all (FedAvg). Sites with labels learn
from them; the networks f_j that these end with label the images of the sites without:

    L = S(f_k(x_l), y_l)   or, without labels,   L = v S(f_k(x_u), q),   F = mean_k f_k
    q = argmax p where all argmax f_j(x_u) are the same and max p >= tau, else not counted

p = mean_j softmax f_j(x_u), S = (CE + Dice) / 2. In the first rounds sites without labels rest.

Page: docs/methods/fssl_pld.md      python code/train_FSSLPLD.py --dataset PROMISE12 --labeled_num 7
"""
from dataclasses import dataclass

import torch

from dataloaders.splits.sites import by_centre, by_draw
from engine import Count, NotNegative, Options, Presets, Run, Share, Steps, launch
from losses import supervised_loss
from losses.overlap import IGNORED
from networks import frozen_copy, logits_of, weighted_mean


@dataclass
class Method(Options):
    sites: Count = 4
    """Sites, at least 2."""
    labeled_sites: Count = 2
    """Sites that have the labels, and nothing else; by centre it follows from the names."""
    site_pattern: str = ""
    """Regular expression whose first group is the centre in the name of a case; sites are then
    centres. Without it patients are drawn for them."""
    site_seed: int = 0
    """Seed of that draw."""
    local_steps: Count = 50
    """Steps of a site in a round."""
    resting_rounds: Steps = 10
    """First rounds, in which sites without labels rest."""
    pseudo_weight: NotNegative = 1.0
    """v, 0 or more."""
    confidence: Share = 0.8
    """tau, 0 to 1."""
    agreement: Share = 1.0
    """Share of the networks of sites with labels that must say the same, 0 to 1."""


PRESETS: Presets = {
    "BraTS2019": dict(site_pattern="^BraTS19_([^_]+)_"),
    "Phantom": dict(max_iterations=1400, local_steps=25, resting_rounds=3),
}


def rounds_of(labeled, sites, options):
    """(the site of every step; by the last step of each round, the sites that trained in it)."""
    turns: list[int] = []
    ends: dict[int, list[int]] = {}
    while len(turns) < options.max_iterations:
        awake, begin = range(labeled if len(ends) < options.resting_rounds else sites), len(turns)
        turns += [site for site in awake for _ in range(options.local_steps)]
        turns = turns[: options.max_iterations]
        ends[len(turns) - 1] = sorted(set(turns[begin:]))
    return turns, ends


@torch.no_grad()
def denoised(voters, images, options):
    """Pseudo-labels (B, *sides) by networks as in a test; 255 where they do not count."""
    each = torch.stack([voter(images).softmax(1) for voter in voters])
    sure, pseudo_u = each.mean(0).max(1)
    alike = (each.argmax(2) == pseudo_u).float().mean(0) >= options.agreement
    return torch.where(alike & (sure >= options.confidence), pseudo_u, IGNORED)


def losses(network, batch, pseudo_u, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    terms = {}
    if pseudo_u is None:
        terms["supervised"] = supervised_loss(network(batch.labeled), batch.labels, options.dice)
    elif batch.n_labeled == 0:
        terms["pseudo"] = supervised_loss(network(batch.unlabeled), pseudo_u, options.dice)
    else:
        logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
        terms["supervised"] = supervised_loss(logits_l, batch.labels, options.dice)
        terms["pseudo"] = supervised_loss(logits_u, pseudo_u, options.dice)
    weights = {"supervised": 1.0, "pseudo": options.pseudo_weight}
    total = sum(weights[name] * term for name, term in terms.items())
    shown = {} if pseudo_u is None else {"pseudo_labels": pseudo_u, "mask": pseudo_u != IGNORED}
    return {"total": total, **terms, **shown}


def main(options: Method) -> None:
    run = Run(options)
    images = run.items(True), run.items(False)
    parts = (by_centre(*images, options.sites, options.site_pattern) if options.site_pattern else
             by_draw(*images, options.sites, options.labeled_sites, options.site_seed))
    for k, part in enumerate(parts, 1):
        run.say(f"Site {k}: {part.said}.")
    labeled = sum(bool(part.labeled) for part in parts)
    sites = [run.network(f"site{k + 1}") for k in range(len(parts))]
    server = run.keep("server", frozen_copy(sites[0]), train=False)
    optimizers = [run.optimizer(f"site{k + 1}", site) for k, site in enumerate(sites)]
    step_losses, step_denoised = run.compiled(losses), run.compiled(denoised)
    run.evaluates(server=server, **{f"site{k + 1}": site for k, site in enumerate(sites)})

    turns, ends = rounds_of(labeled, len(parts), options)
    pairs = [(part.labeled, part.unlabeled) for part in parts]

    for step, batch in run.batches(parts=pairs, turns=turns):
        k, pseudo_u = turns[step], None
        if step == 0 or turns[step - 1] != k or step - 1 in ends:
            sites[k].load_state_dict(server.state_dict())
            optimizers[k].forget()
        if parts[k].unlabeled:
            for voter in sites[:labeled]:
                voter.eval()
            pseudo_u = step_denoised(sites[:labeled], batch.unlabeled, options)
            sites[k].train()
        terms = step_losses(sites[k], batch, pseudo_u, options)
        run.update(optimizers[k], terms)
        if step in ends:
            weighted_mean(server, [sites[one] for one in ends[step]], [1.0] * len(ends[step]))
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
