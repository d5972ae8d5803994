"""CAML: two steps in succession on LA in the released and the repaired form, its attention, and its networks."""
from __future__ import annotations

import copy
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import train_CAML
from parity_tools import Computed, Golden, Parity, gradient
from torch import Tensor, nn

from engine.schedules import ramp
from losses import sharpened
from losses.correlation import Memory, correlation, surest
from networks import build
from networks.cma import CorrelationHeads, CrossSampleAttention


class Chosen:
    """In place of a generator: draws what the file says, class after class, and notes from how many."""

    def __init__(self, selected: np.ndarray):
        self.selected, self.counts = list(selected), []

    def choice(self, count: int, number: int, replace: bool) -> np.ndarray:
        assert number == len(self.selected[0]) and not replace
        self.counts.append(count)
        return self.selected[len(self.counts) - 1].astype(np.int64)


class Parts(nn.Module):
    """A network that gives logits and features whatever it is asked."""

    def __init__(self, logits: Tensor, features: Tensor):
        super().__init__()
        self.parts = logits, features

    def encode(self, images: Tensor) -> list[Tensor]:
        return [images]

    def decode(self, maps: list[Tensor]) -> Tensor:
        return self.parts[1]

    def head(self, features: Tensor) -> Tensor:
        return self.parts[0]


def heads_of(golden: Golden) -> list[CorrelationHeads]:
    made = []
    for letter in "va":
        heads = CorrelationHeads()
        for name in ("projection", "prediction"):
            first, norm, _, last = getattr(heads, name)
            start = f"par_{name}_{letter}_"
            with torch.no_grad():
                for layer, ending in ((first, "a"), (last, "b")):
                    layer.weight.copy_(golden.tensor(f"{start}{ending}_weight"))
                    layer.bias.copy_(golden.tensor(f"{start}{ending}_bias"))
                for value, ending in ((norm.weight, "scale"), (norm.bias, "shift"), (norm.running_mean, "mean"), (norm.running_var, "var")):
                    value.copy_(golden.tensor(start + ending))
        made.append(heads)
    return made


def remembered(memory: Memory, selected: np.ndarray) -> Tensor:
    return memory.drawn(selected.shape[1], Chosen(selected)).unflatten(0, selected.shape)  # type: ignore[union-attr, arg-type]


def steps(golden: Golden) -> Computed:
    n, times = golden["par_labeled_bs"].item(), golden["par_iters"].tolist()
    given = {"memory_per_class": golden["par_memory_per_class"].item(), "positions_per_class": golden["par_filtered_per_class"].item()}
    out: Computed = {}
    for marks, preset in (("", "published_code"), ("repaired_", "")):
        options = train_CAML.Method(**{**train_CAML.PRESETS["LA"], **train_CAML.PRESETS.get(preset, {}), **given})
        heads, memory = heads_of(golden), Memory(options.stored)
        for t, cases in zip(times, golden["in_cases"].tolist()):
            logits = [golden.leaf(f"in_logits_{letter}_{t}") for letter in "va"]
            features = [golden.leaf(f"in_embedding_{letter}_{t}") for letter in "va"]
            labels, selected = golden.tensor(f"in_labels_{t}")[:n], golden[f"in_selected_{t}"]
            rng, before = Chosen(selected), copy.deepcopy(heads)
            batch: Any = SimpleNamespace(images=torch.zeros(len(logits[0]), 1), labels=labels, n_labeled=n, rng=rng,
                                         cases=[f"case {k}" for k in cases])
            weight = options.consistency * ramp(t + 1, options.consistency_rampup)
            networks = [Parts(*pair) for pair in zip(logits, features)]
            terms = train_CAML.losses(*networks, heads, memory, batch, weight, options)
            if not marks:
                out |= {f"out_{name}_{t}": terms[name] for name in ("supervised", "consistency")}
                out |= {f"out_weight_consistency_{t}": weight, f"out_weight_correlation_{t}": weight * options.correlation_weight,
                        f"out_bank_counts_{t}": np.array(rng.counts)}
                said = [z.argmax(1) for z in logits]
                out[f"out_agree_{t}"] = terms["mask"].to(torch.uint8)
                out[f"out_correct_{t}"] = ((said[0][:n] == labels) & (said[1][:n] == labels)).to(torch.uint8)
                out |= {f"out_sharpened_{letter}_{t}": sharpened(z, options.temperature) for letter, z in zip("va", logits)}
                agree, known = terms["mask"], remembered(memory, selected).flatten(0, 1)
                chosen = surest(said[0][n:][agree], logits[0][n:].softmax(1).amax(1)[agree], options.positions_per_class)
                for letter, head, maps in zip("va", before, features):
                    rows = head(maps[n:].movedim(1, -1)[agree])[chosen]
                    out[f"out_correlation_{letter}_{t}"] = correlation(rows, known, options.correlation_temperature)
            out |= {f"out_{marks}memory_{t}": remembered(memory, selected), f"out_{marks}correlation_loss_{t}": terms["correlations"],
                    f"out_{marks}total_{t}": terms["total"]}
        slopes = gradient(terms["correlations"], *features)
        out |= {f"grad_{marks}correlation_embedding_{letter}": slope for letter, slope in zip("va", slopes)}
        if not marks:
            out |= {f"grad_total_{name}_{letter}": slope for name, of in (("logits", logits), ("embedding", features))
                    for letter, slope in zip("va", gradient(terms["total"], *of))}
            out |= {f"grad_consistency_logits_{letter}": slope for letter, slope in zip("va", gradient(terms["consistency"], *logits))}
            for name in ("projection", "prediction"):
                slopes = gradient(terms["correlations"], *(getattr(head, name)[0].weight for head in heads))
                out |= {f"grad_correlation_{name}_{letter}_a_weight": slope for letter, slope in zip("va", slopes)}
    many = train_CAML.Method(**{**train_CAML.PRESETS["LA"], **given, "memory_per_class": 10**6})
    empty = train_CAML.losses(*networks, heads, Memory(many.stored), batch, weight, many)
    return out | {"out_empty_correlation_loss": empty["correlations"], "out_empty_total": empty["total"]}


def attention(golden: Golden) -> Computed:
    features = golden.leaf("in_features")
    module = CrossSampleAttention(features.shape[1], dropout=0.0)
    with torch.no_grad():
        for name in ("intra", "inter"):
            for key, value in getattr(module, name).named_parameters():
                value.copy_(golden.tensor(f"par_{name}_{key.replace('.', '_')}"))
    both = module(features)
    positions = features.flatten(2)
    within = module.intra(positions.permute(2, 0, 1)).permute(1, 2, 0).view_as(features)
    across = module.inter(positions.permute(0, 2, 1)).permute(0, 2, 1).view_as(features)
    slope = gradient((both * golden.tensor("in_cotangent")).sum(), features)[0]
    return {"out_intra": within, "out_inter_only": across, "out_both": both, "grad_both": slope, "out_evaluation": module.eval()(features)}


def name_there(name: str, number: int) -> str:
    """A tensor of network 1 or 2, as CAML's code calls it."""
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    encoder, decoder = f"encoder{number}.", f"decoder{number}."
    rules: list[tuple[str, Any]] = [
        (r"^levels\.(\d)\.(\d)\.(\d)", lambda m: f"{encoder}block_{words[int(m[1])]}.conv.{3 * int(m[2]) + int(m[3])}"),
        (r"^down\.(\d)\.", lambda m: f"{encoder}block_{words[int(m[1])]}_dw.conv."),
        (r"^attention\.(\w+)\.", lambda m: f"{encoder}{m[1]}_attention.encoder_layers."),
        (r"^up\.(\d)\.", lambda m: f"{decoder}block_{words[int(m[1]) + 4]}_up.conv."),
        (r"^up_levels\.(\d)\.(\d)\.(\d)", lambda m: f"{decoder}block_{words[int(m[1]) + 5]}.conv.{3 * int(m[2]) + int(m[3])}"),
        (r"^out\.", decoder + "out_conv."), (r"^(projection|prediction)\.", rf"\1_head{number}."),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def networks(golden: Golden) -> Computed:
    plain, other, heads = build("vnet"), build("vnet_cma"), [build("caml_heads"), build("caml_heads")]
    own = {name_there(name, number): value for number, parts in ((1, (plain, heads[0])), (2, (other, heads[1])))
           for part in parts for name, value in part.state_dict().items()}
    ordered = [name for name in golden["out_keys"].tolist() if name in own]

    def count(*starts: str) -> int:
        parameters = {name_there(name, number): value.numel() for number, parts in ((1, (plain, heads[0])), (2, (other, heads[1])))
                      for part in parts for name, value in part.named_parameters()}
        return sum(value for name, value in parameters.items() if name.startswith(starts))

    groups = {"encoder_v": ("encoder1.",), "encoder_a": ("encoder2.",), "decoder_v": ("decoder1.",), "decoder_a": ("decoder2.",),
              "projection": ("projection_head1.",), "prediction": ("prediction_head1.",), "intra_attention": ("encoder2.intra_attention.",),
              "inter_attention": ("encoder2.inter_attention.",)}
    return {"out_parameters": np.array(count("")), "out_parameters_plain_vnet": np.array(sum(p.numel() for p in plain.parameters())),
            "out_parts": np.array(list(groups)), "out_parameters_parts": np.array([count(*starts) for starts in groups.values()]),
            "out_keys": np.array(ordered), "out_shapes": np.array([",".join(map(str, own[name].shape)) for name in ordered])}


FILES = {
    "caml_la": Parity(steps, tolerances={
        "out_memory_*": (1e-5, 1e-6), "out_repaired_memory_*": (1e-5, 1e-6), "out_sharpened_*": (1e-4, 1e-6),
        "out_correlation_loss_*": (2e-5, 1e-7), "out_repaired_correlation_loss_*": (2e-5, 1e-7), "out_correlation_*": (1e-3, 1e-6),
        "grad_*correlation_*": 1e-4, "grad_total_embedding_*": 1e-4}),
    "caml_attention": Parity(attention, tolerances={
        "out_intra": (1e-5, 1e-6), "out_inter_only": (1e-5, 1e-6), "out_both": (1e-5, 2e-6), "grad_both": 2e-5}),
    "caml_network": Parity(networks),
}
