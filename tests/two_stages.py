"""A method of two stages, for the tests of the frame: a network learns from labels; a second one from the masks that it made of the
unlabelled images too, each pixel weighted by how sure the first was."""
from dataclasses import dataclass

import torch.nn.functional as F

from engine import Options, Run, launch
from losses import supervised_loss


@dataclass
class TwoStages(Options):
    first_steps: int = 6
    """Steps of the first stage."""
    images: int = 8
    """Unlabelled images that get a mask."""


PRESETS: dict = {}


def losses(network, batch):
    logits = network(batch.images)
    each = F.cross_entropy(logits, batch.labels, reduction="none")
    return {"total": (batch.maps["confidence"] * each).mean(), "sure": batch.maps["confidence"].mean()}


def label_the_rest(run, options):
    stage = run.stage("first", iterations=options.first_steps)
    network = stage.network("network")
    optimizer = stage.optimizer("network", network)
    stage.evaluates(network=network)
    for step, batch in stage.batches(labeled_only=True):
        terms = {"total": supervised_loss(network(batch.images), batch.labels)}
        stage.update(optimizer, terms)
        stage.after_step(step, terms)
    return run.predict_unlabeled("masks", run.best("first", "network"), run.items(labeled=False)[: options.images],
                                 {"confidence": lambda p: p.max(0)})


def main(options: TwoStages) -> None:
    run = Run(options)
    masks = label_the_rest(run, options)
    network = run.network("network")
    optimizer = run.optimizer("network", network, kind="adamw", lr=1e-3, clip=1.0)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)
    for step, batch in run.batches(labeled=[*run.items(labeled=True), *masks], labeled_only=True, maps={"confidence": 1.0}):
        terms = step_losses(network, batch)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, TwoStages, PRESETS)
