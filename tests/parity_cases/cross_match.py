"""CrossMatch on one labelled and unlabelled batch and its partner batch: the script's own `main`, with a stub network."""
from __future__ import annotations

from itertools import cycle
from typing import Any
from unittest import mock

import numpy as np
import torch
import train_CrossMatch
from parity_tools import Computed, Golden, Parity, ScriptedRun, drive, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.augmentation import strong_volumes
from dataloaders.batches.loader import Rows
from dataloaders.catalog import DATA_SETS
from engine.schedules import Form, ScheduledOptimizer
from losses.supervised import DICE

VIEWS = ("clean", "clean_weak", "clean_strong", "strong_1", "strong_2", "strong_2_weak", "strong_2_strong")


class DecodedStub(nn.Module):
    """Encodes images as themselves; what it decodes are stored logits, in call order. `seen` keeps what it encodes."""

    def __init__(self, *outputs: Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.outputs, self.seen = cycle(outputs), []

    def encode(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images)
        return [images]

    def decode(self, maps: list[Tensor]) -> Tensor:
        return maps[0]

    def head(self, features: Tensor) -> Tensor:
        logits = next(self.outputs)
        assert len(logits) == len(features)
        return logits


def options_of(data: str, **values: Any) -> train_CrossMatch.Method:
    names = train_CrossMatch.Method.__dataclass_fields__
    found = {name: value for name, value in DATA_SETS[data].defaults.items() if name in names}
    return train_CrossMatch.Method(**{**found, **train_CrossMatch.PRESETS[data], **values})


def driven(golden: Golden, data: str, steps: list[int], **values: Any) -> tuple[ScriptedRun, DecodedStub, dict[str, Tensor]]:
    """The script at these steps, its views and boxes those of the file; the leaves of its logits by name."""
    leaves = {name: golden.leaf(f"in_logits_{name}") for name in ("labeled", *VIEWS)}
    mates = [golden.tensor(f"in_logits_mix_{name}") for name in ("clean", "weak", "strong")]
    network = DecodedStub(torch.cat([leaves["labeled"], *mates]), torch.cat([leaves[name] for name in ("labeled", *VIEWS[:3])]),
                          torch.cat([leaves[name] for name in VIEWS[3:]]))
    batches = []
    for step in steps:
        batch = golden_batch(golden.tensor("in_labels"), len(golden["in_images_strong_1"]), step)
        batch.mates = (Rows(torch.full_like(batch.unlabeled, 2.0), {}, ()),)
        batches.append(batch)
    boxes = cycle([golden.tensor(f"in_box{k}").bool().unsqueeze(1) for k in (1, 2)])
    # The mates' view is made before the images'.
    changed = cycle([golden.tensor(f"in_images_{of}strong_{k}") for k in (1, 2) for of in ("mix_", "")])
    with mock.patch.object(strong_volumes, "cutmix_boxes", lambda *drawn, **device: next(boxes)), \
            mock.patch.object(strong_volumes, "recoloured", lambda *drawn: next(changed)), \
            mock.patch.object(strong_volumes, "field_view", lambda *drawn: next(changed)):
        run = drive(train_CrossMatch, options_of(data, eta=golden["par_eta"].item(), **values), {"network": network}, batches)
    return run, network, leaves


def matched(golden: Golden, data: str) -> Computed:
    steps = golden["par_iters"].tolist() if "par_iters" in golden.arrays else [0]
    run, network, leaves = driven(golden, data, steps)
    names = ("supervised", "strong_1", "strong_2", "weak_from_clean", "strong_from_clean", "strong_2_weak_from_clean",
             "strong_2_strong_from_clean", "strong_2_weak_from_weak", "strong_2_strong_from_strong", "distillation", "total")
    out: Computed = {}
    for step in run.steps:
        ending = f"_{step.step}" if len(steps) > 1 else ""
        out |= {f"out_{name}{ending}": step.terms[name] for name in names} | {f"out_threshold{ending}": step.arguments["threshold"]}
    total = run.steps[-1].terms["total"]
    out |= {f"grad_total_{name}": gradient(total, leaf)[0] for name, leaf in leaves.items() if name != "clean"}
    out["out_clean_grad_max"] = gradient(total, leaves["clean"])[0].abs().max().double()
    assert [float(images[-1].flatten()[0]) for images in network.seen[:2]] == [2, 1], "the partners, then the images, beside the labelled"
    out |= {f"out_images_cutmixed_{k}": images for k, images in enumerate(network.seen[2].chunk(2), 1)}
    # Where everything passes the threshold the labels themselves are seen.
    taught = driven(golden, data, [0], confidence=-1.0)[0].steps[0].terms["taught"].to(torch.uint8)
    labels = dict(zip(("cutmixed_1", "cutmixed_2", "weak_cutmixed_2", "strong_cutmixed_2"), taught.chunk(4)))
    out |= {f"out_labels_{name}": values for name, values in labels.items()}
    hard, ignored = golden.leaf("in_hard_logits"), golden.tensor("in_hard_ignored")
    loss = DICE[options_of(data).dice](hard, golden.tensor("in_hard_labels").masked_fill(ignored.bool(), 255))
    return out | {"out_hard_loss": loss, "grad_hard_loss": gradient(loss, hard)[0]}


def schedules(golden: Golden) -> Computed:
    options, steps = options_of("LA", confidence=golden["par_start"].item()), golden["in_iter"].tolist()
    network = nn.Linear(1, 1)
    optimizer = Form("adamw").build([{"params": list(network.parameters())}], golden["par_base_lr"].item(), torch.device("cpu"))
    scheduled = ScheduledOptimizer(optimizer, golden["par_base_lr"].item(), options.schedule, [1.0], stretch=options.stretch)
    assert options.stretch * options.max_iterations == golden["par_length"].item()
    return {"out_threshold_in_effect": np.array([train_CrossMatch.threshold_at(step, options) for step in steps]),
            "out_learning_rate_in_effect": np.array([scheduled.set_rate(step, options.max_iterations) for step in steps])}


FILES = {
    "crossmatch_acdc": Parity(lambda golden: matched(golden, "ACDC")),
    "crossmatch_la": Parity(lambda golden: matched(golden, "LA")),
    "crossmatch_schedules": Parity(schedules),
}
