"""SCP-Net: prototypes, votes and losses on one batch in the released and the repaired form, the weight, and the network."""
from __future__ import annotations

import re

import numpy as np
import torch
import train_SCPNet
from parity_tools import Computed, Golden, Parity, TappedStub, golden_batch, gradient
from torch import Tensor

from engine.schedules import ramp
from losses import supervised_loss
from losses.prototypes import agreement_of_votes, by_own_and_by_others, cosines_to, mean_features
from losses.supervised import DICE
from networks import build

PUBLISHED = {**train_SCPNet.PRESETS["2D"], "passes": "apart"}


def positions_last(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, HW, C)."""
    return maps.flatten(2).transpose(1, 2)


def step(golden: Golden) -> Computed:
    logits, features, n = golden.leaf("in_logits"), golden.leaf("in_features"), golden["par_labeled_bs"].item()
    labels = golden.tensor("in_labels")[:n]

    def terms_of(**values: str) -> dict[str, Tensor]:
        options = train_SCPNet.Method(**{**PUBLISHED, **values})
        weight = options.consistency * ramp(golden["par_iter"].item(), options.consistency_rampup)
        network = TappedStub((None, features[:n], logits[:n]), (None, features[n:], logits[n:]))
        batch = golden_batch(labels, len(logits) - n)
        return train_SCPNet.losses(network, batch, weight, options) | {"weight": torch.tensor(weight, dtype=torch.float64)}

    released, repaired = terms_of(**train_SCPNet.PRESETS["published_code"]), terms_of()
    own, others = released["by_own_prototypes"], released["by_other_prototypes"]
    out: Computed = {
        "out_supervised": released["supervised"], "out_self_loss": own, "out_cross_loss": others, "out_unsupervised": (own + others) / 2,
        "out_total": released["total"], "out_weight": released["weight"], "out_repaired_cross_loss": repaired["by_other_prototypes"],
        "out_repaired_total": repaired["total"], "out_feature_grad_max": gradient(released["total"], features)[0].abs().max().double(),
    }
    out |= {"grad_self_loss": gradient(own, logits)[0], "grad_cross_loss": gradient(others, logits)[0],
            "grad_total": gradient(released["total"], logits)[0], "grad_repaired_total": gradient(repaired["total"], logits)[0],
            "grad_repaired_cross_loss": gradient(repaired["by_other_prototypes"], logits)[0]}

    with torch.no_grad():
        prototypes = mean_features(features, logits.softmax(1))
        cosines = cosines_to(features, prototypes)
        by_own, by_others = by_own_and_by_others(cosines)
        votes = torch.nn.functional.one_hot(cosines.argmax(2), logits.shape[1]).sum(1)
    out |= {"out_prototypes": prototypes, "out_similarity": cosines.flatten(3).permute(0, 3, 1, 2), "out_self": positions_last(by_own),
            "out_cross": positions_last(by_others), "out_agreement": agreement_of_votes(cosines).flatten(1),
            "out_votes": votes.flatten(1, 2).to(torch.uint8)}

    absent = golden.tensor("in_absent_labels")
    dice = DICE["halved"](logits[: len(absent)], absent)
    empty = golden.tensor("in_empty_logits")
    assert released["supervised"] == supervised_loss(logits[:n], labels, "halved")
    return out | {"out_absent_dice": dice, "grad_absent_dice": gradient(dice, logits)[0][: len(absent)],
                  "out_empty_prototypes": mean_features(features[: len(empty)].detach(), empty.softmax(1))}


def weights(golden: Golden) -> Computed:
    options = train_SCPNet.Method()
    return {"out_weight": [options.consistency * ramp(t, options.consistency_rampup) for t in golden["in_iter"].tolist()]}


def name_there(name: str) -> str:
    """A tensor of our U-Net, as SCP-Net's code calls it."""
    rules = [(r"^stem\.", "encoder.in_conv.conv_conv."), (r"^out\.", "decoder1.out_conv."),
             (r"^down\.(\d)\.1\.", lambda found: f"encoder.down{int(found[1]) + 1}.maxpool_conv.1.conv_conv."),
             (r"^up\.(\d)\.reduce\.", lambda found: f"decoder1.up{int(found[1]) + 1}.conv1x1."),
             (r"^up\.(\d)\.conv\.", lambda found: f"decoder1.up{int(found[1]) + 1}.conv.conv_conv.")]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)  # type: ignore[call-overload]
    return name


def network(golden: Golden) -> Computed:
    ours = build("unet_32")
    state = {name_there(name): ",".join(map(str, value.shape)) for name, value in ours.state_dict().items()}
    parameters, buffers = (np.array(sum(x.numel() for x in some)) for some in (ours.parameters(), ours.buffers()))
    return {"out_parameters": parameters, "out_buffers": buffers, "out_keys": np.array(list(state)),
            "out_shapes": np.array(list(state.values()))}


FILES = {
    "scpnet_2d": Parity(step, tolerances={**dict.fromkeys(("out_prototypes", "out_similarity", "out_self", "out_cross",
                                                           "out_empty_prototypes"), (1e-5, 1e-6)), "out_agreement": (1e-5, 2e-6)}),
    "scpnet_weight": Parity(weights),
    "scpnet_network": Parity(network),
}
