"""A method with two losses in turn (DAN: Zhang et al., MICCAI 2017), for the tests of the frame: a segmenter against a critic."""
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import networks
from engine import Options, Run, launch
from losses import supervised_loss


@dataclass
class Critic(Options):
    critic_lr: float = 1e-4
    """Rate of the critic."""
    critic_schedule: str = "constant"
    """How it goes."""


class TinyCritic(nn.Module):
    """(B, K + C, H, W) -> (B, 2)."""

    def __init__(self, in_channels: int = 1, num_classes: int = 4, dropout: float = 1.0):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels + num_classes, 8, 4, 4), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Dropout(0.5 * dropout), nn.Linear(8, 2),
        )

    def forward(self, x):
        return self.layers(x)


networks.BUILDERS["tiny_critic"] = TinyCritic
PRESETS: dict = {}


def seen(logits, images):
    return torch.cat([logits.softmax(1), images], 1)


def segmenter_losses(segmenter, critic, batch, weight):
    n = batch.n_labeled
    logits = segmenter(batch.images)
    verdict = critic(seen(logits[n:], batch.unlabeled))
    fooled = F.cross_entropy(verdict, torch.ones(len(verdict), dtype=torch.long))
    supervised = supervised_loss(logits[:n], batch.labels)
    return {"total": supervised + weight * fooled, "supervised": supervised, "fooled": fooled}


def critic_losses(segmenter, critic, batch):
    with torch.no_grad():
        logits = segmenter(batch.images)
    truth = torch.tensor([1] * batch.n_labeled + [0] * len(batch.unlabeled))
    return {"critic": F.cross_entropy(critic(seen(logits, batch.images)), truth)}


def main(options: Critic) -> None:
    run = Run(options)
    segmenter = run.network("segmenter")
    critic = run.network("critic", model="tiny_critic")
    optimizer = run.optimizer("segmenter", segmenter)
    critic_optimizer = run.optimizer("critic", critic, kind="adam", lr=options.critic_lr, betas=(0.9, 0.99),
                                     schedule=options.critic_schedule)
    run.evaluates(segmenter=segmenter)
    for step, batch in run.batches():
        critic.eval()
        terms = segmenter_losses(segmenter, critic, batch, 0.1)
        run.update(optimizer, terms)
        segmenter.eval()
        critic.train()
        critic_terms = critic_losses(segmenter, critic, batch)
        run.update(critic_optimizer, critic_terms, minimise="critic")
        run.after_step(step, {**terms, **critic_terms})
    run.finish()


if __name__ == "__main__":
    launch(main, Critic, PRESETS)
