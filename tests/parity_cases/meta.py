"""MLB-Seg: one step with its meta-gradient on a network of one convolution, and its schedules."""
from __future__ import annotations

import numpy as np
import torch
from parity_tools import Computed, Golden, Parity, gradient
from torch import Tensor, nn

from engine.schedules import SCHEDULES, Form, ScheduledOptimizer
from losses import cross_entropy, softmax_mse
from losses.supervised import helpful, label_costs, meta_gradient
from networks import ema_update, with_parameters


class Sigmoid(nn.Module):
    """One convolution whose sigmoid is the probability of class 1, as logits of two classes."""

    def __init__(self, golden: Golden, name: str):
        super().__init__()
        self.weight, self.bias = (nn.Parameter(golden.tensor(f"par_{name}_{part}")) for part in ("weight", "bias"))

    def forward(self, images: Tensor) -> Tensor:
        logits = nn.functional.conv2d(images, self.weight, self.bias, padding=1)
        return torch.cat([torch.zeros_like(logits), logits], 1)


def step(golden: Golden) -> Computed:
    student, teacher = Sigmoid(golden, "network"), Sigmoid(golden, "teacher")
    own = list(student.parameters())
    form = Form("sgd", golden["par_momentum"].item(), golden["par_weight_decay"].item())
    rate = golden["par_lr"].item()
    optimizer = ScheduledOptimizer(form.build([{"params": own}], rate, torch.device("cpu")), rate, "constant", [1.0],
                                   clip=golden["par_clip"].item())
    for parameter, part in zip(own, ("weight", "bias")):
        optimizer.optimizer.state[parameter]["momentum_buffer"] = golden.tensor(f"par_momentum_{part}").float()

    logits, average = student(golden.tensor("in_images")), golden.tensor("in_view_average")
    pseudo = torch.cat([1 - average, average], 1).argmax(1)
    cost = label_costs(logits, golden.tensor("in_noisy_labels")[:, 0], pseudo)
    agreed = softmax_mse(logits, teacher(golden.tensor("in_teacher_images")).detach()).mean()

    def clean_loss(ahead: Tensor) -> Tensor:
        return cross_entropy(with_parameters(student, ahead, golden.tensor("in_clean_images")), golden.tensor("in_clean_labels")[:, 0])

    slopes, meta = meta_gradient(cost, agreed, own, optimizer.ahead, optimizer.rate, clean_loss)
    weights = helpful(slopes)
    loss = (weights * cost).sum() + agreed
    virtual, found = optimizer.ahead(gradient(agreed, *own)), gradient(loss, *own)
    for parameter, slope in zip(own, found):
        parameter.grad = slope.clone()
    optimizer.step()
    out: Computed = {"out_meta_gradient": slopes, "out_weights": weights, "out_meta_loss": meta, "out_loss": loss,
                     "out_teacher_term": agreed, "out_pseudo_labels": pseudo.unsqueeze(1).to(torch.uint8)}
    for k, part in enumerate(("weight", "bias")):
        out |= {f"out_virtual_{part}": virtual[k], f"grad_loss_{part}": found[k], f"out_step_{part}": own[k]}
    return out


def schedules(golden: Golden) -> Computed:
    rates, base = golden["out_learning_rate"], golden["par_base_lr"].item()
    count, each, kept = len(golden["out_keep_rate"]), golden["par_iterations_per_epoch"].item(), []
    for k in range(count):
        teacher, student = nn.Linear(1, 1), nn.Linear(1, 1)
        nn.init.ones_(teacher.weight)
        nn.init.zeros_(student.weight)
        ema_update(teacher, student, k // 2 % each, 0.99)
        kept.append(teacher.weight.item())
    return {"out_learning_rate": [SCHEDULES["inverse"](epoch, base, len(rates)) for epoch in range(len(rates))],
            "out_keep_rate": np.array(kept, np.float32)}


FILES = {
    "mlbseg_meta": Parity(step),
    "mlbseg_schedules": Parity(schedules, tolerances={"out_keep_rate": (1e-5, 1e-6)}),
}
