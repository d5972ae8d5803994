"""A method with a learned augmentation (CTAugment: Berthelot et al., ICLR 2020), for the tests of the frame.

The strength of the strong view follows how well the network does on it; what was seen in an epoch counts from the next one on.
"""
from dataclasses import dataclass

import torch

from engine import Options, Run, launch
from losses import supervised_loss


@dataclass
class Learned(Options):
    bins: int = 4
    """Strengths to choose from."""


PRESETS: dict = {}


class Policy:
    """Chances of each strength; `update` at the end of an epoch alone changes what `sample` gives."""

    def __init__(self, bins):
        self.chances, self.seen = [1.0] * bins, [[] for _ in range(bins)]

    def sample(self, rng):
        share = torch.tensor(self.chances).double()
        return int(rng.choice(len(self.chances), p=(share / share.sum()).numpy())), float(rng.random())

    def apply(self, images, labels, plans):
        return images, labels, torch.stack([x + 0.1 * strength * torch.sin(10 * where * x) for x, (strength, where) in zip(images, plans)])

    def note(self, plans, error):
        for strength, _ in plans:
            self.seen[strength].append(error)

    def update(self):
        for k, errors in enumerate(self.seen):
            if errors:
                self.chances[k] = 0.5 * self.chances[k] + 0.5 / (1 + sum(errors) / len(errors))
        self.seen = [[] for _ in self.seen]

    def state_dict(self):
        return {"chances": self.chances, "seen": self.seen}

    def load_state_dict(self, state):
        self.chances, self.seen = state["chances"], state["seen"]


def losses(network, batch):
    n = batch.n_labeled
    weak, strong = network(batch.images), network(batch.strong)
    with torch.no_grad():
        pseudo_labels = weak[n:].argmax(1)
    supervised = supervised_loss(weak[:n], batch.labels)
    unsupervised = supervised_loss(strong[n:], pseudo_labels)
    total = supervised + 0.1 * unsupervised
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised, "pseudo_labels": pseudo_labels}


def main(options: Learned) -> None:
    run = Run(options)
    network = run.network("network")
    policy = run.keep("policy", Policy(options.bins))
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)
    for step, batch in run.batches(augment=policy):
        terms = step_losses(network, batch)
        run.update(optimizer, terms)
        policy.note(batch.plans, float(terms["unsupervised"].detach()))
        if batch.last_of_epoch:
            policy.update()
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Learned, PRESETS)
