"""ICT, DCT and DAN as SSL4MIS has them, and the comparison methods of simEps's authors (CPS stands with the methods of two networks)."""
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import train_DAN
import train_DCT
import train_ICT
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient

from dataloaders.batches.loader import Batch
from dataloaders.catalog import DATA_SETS
from parity_cases import industry, simeps, two_networks


def batch_of(golden: Golden, rng: Any) -> Batch:
    """The file's images (zeros and ones where it has none), with a generator that draws what the file has."""
    labels, step = golden.tensor("in_labels")[: golden["par_labeled_bs"].item()], golden["par_iter"].item()
    batch = golden_batch(labels, len(golden["in_labels"]) - len(labels), step)
    if "in_images" in golden.arrays:
        batch.images = golden.tensor("in_images")
    batch.rng = rng
    return batch


def by_authors_of_simeps(script: Any, kind: Any) -> Any:
    """The options that hold on NEU-Seg."""
    names = set(kind.__dataclass_fields__)
    values = {**DATA_SETS["NEU-Seg"].defaults, **script.PRESETS.get("defect", {}), **script.PRESETS["NEU-Seg"]}
    return kind(**{name: value for name, value in values.items() if name in names})


def ict(golden: Golden) -> Computed:
    mix, n = golden["in_lambda"], golden["par_labeled_bs"].item()
    student, teacher = golden.leaf("in_student_logits"), [golden.tensor(f"in_teacher_logits_{k}") for k in range(2)]
    drawn: list[tuple[float, ...]] = []

    def beta(*arguments: Any) -> Any:
        drawn.append(arguments)
        return mix

    batch, stub = batch_of(golden, SimpleNamespace(beta=beta)), Stub(student)
    (step,) = drive(train_ICT, train_ICT.Method(), {"student": stub}, [batch], {"teacher": Stub(*teacher)}).steps
    assert drawn == [(0.2, 0.2, mix.shape)]
    terms = step.terms
    return {
        "out_student_input_shape": torch.tensor(stub.seen[0].shape), "out_mixed_images": stub.seen[0][n:],
        "out_mixed_targets": train_ICT.mixed(*(logits.softmax(1) for logits in teacher), golden.tensor("in_lambda")),
        "out_supervised": terms["supervised"], "out_unsupervised": terms["consistency"], "out_total": terms["total"],
        "out_weight": step.arguments["weight"],
        "grad_unsupervised": gradient(terms["consistency"], student)[0], "grad_total": gradient(terms["total"], student)[0],
    }


def dct(golden: Golden) -> Computed:
    plain, rotated = golden.leaf("in_logits"), golden.leaf("in_rotated_logits")
    out: Computed = {}
    for k in golden.endings("out_total_k"):
        stub = Stub(plain, rotated)
        batch = batch_of(golden, SimpleNamespace(integers=lambda stop, k=k: int(k) % stop))
        square = train_DCT.Method(patch_size=tuple(plain.shape[2:]))
        (step,) = drive(train_DCT, square, {"network": stub}, [batch]).steps
        terms = {"supervised": step.terms["supervised"], "unsupervised": step.terms["consistency"], "total": step.terms["total"]}
        out |= {f"out_{name}_k{k}": value for name, value in terms.items()}
        out[f"out_weight_k{k}"] = step.arguments["weight"]
        if f"out_rotated_images_k{k}" in golden.arrays:
            out[f"out_rotated_images_k{k}"] = stub.seen[1]
        if f"grad_unsupervised_k{k}" in golden.arrays:
            names = (f"grad_unsupervised_k{k}", f"grad_unsupervised_rotated_k{k}")
            out |= dict(zip(names, gradient(step.terms["consistency"], plain, rotated)))
    return out


class CriticStub(Stub):
    """A critic that answers as the file has it; `was_training` keeps its mode at each call."""

    def __init__(self, *outputs: torch.Tensor):
        super().__init__(*outputs)
        self.was_training: list[bool] = []

    def forward(self, probabilities: torch.Tensor, images: torch.Tensor) -> Any:  # type: ignore[override]
        assert len(probabilities) == len(images) and probabilities.requires_grad != self.training
        self.was_training.append(self.training)
        return super().forward(images)


def dan(golden: Golden) -> Computed:
    fooled, judged = golden.leaf("in_disc_logits_generator_pass"), golden.leaf("in_disc_logits_discriminator_pass")
    batch, critic = batch_of(golden, None), CriticStub(fooled, judged)
    networks = {"segmenter": Stub(golden.leaf("in_logits")), "critic": critic}
    (step,) = drive(train_DAN, train_DAN.Method(), networks, [batch]).steps
    terms = step.terms
    assert [seen.shape[0] for seen in critic.seen] == [len(fooled), len(judged)] and critic.was_training == [False, True]
    return {
        "out_disc_target": train_DAN.labeled_or_not(batch),
        "out_supervised": terms["supervised"], "out_unsupervised": terms["adversarial"], "out_total": terms["total"],
        "out_discriminator_loss": terms["critic"], "out_weight": step.arguments["weight"],
        "grad_generator_disc_logits": gradient(terms["adversarial"], fooled)[0],
        "grad_discriminator_disc_logits": gradient(terms["critic"], judged)[0],
    }


def authors_batch(golden: Golden, rng: Any = None) -> Batch:
    """The labelled and unlabelled rows of `simeps_baselines`."""
    labels = golden.tensor("in_labels")
    batch = golden_batch(labels, len(golden["in_logits_unlabeled_1"]), golden["par_iter"].item())
    batch.rng = rng
    return batch


def simeps_dct(golden: Golden) -> Computed:
    plain, rotated = golden.leaf("in_logits_unlabeled_1"), golden.leaf("in_logits_unlabeled_2")
    options = by_authors_of_simeps(train_DCT, train_DCT.Method)
    batch = authors_batch(golden, SimpleNamespace(integers=lambda stop: golden["par_dct_k"].item()))
    stub = Stub(golden.leaf("in_logits_labeled_1"), plain, rotated)
    (step,) = drive(train_DCT, options, {"network": stub}, [batch]).steps
    assert len(stub.seen) == 3
    to_plain, to_rotated = gradient(step.terms["consistency"], plain, rotated)
    return {"out_dct_consistency": step.terms["consistency"], "out_dct_total": step.terms["total"], "out_weight": step.arguments["weight"],
            "grad_dct_plain": to_plain, "grad_dct_rotated": to_rotated}


def simeps_dan(golden: Golden) -> Computed:
    options = by_authors_of_simeps(train_DAN, train_DAN.Method)
    judged = torch.cat([golden.tensor("in_dan_labeled"), golden.tensor("in_dan_unlabeled")])
    critic = CriticStub(golden.leaf("in_dan_generator"), judged)
    logits = [golden.leaf(f"in_logits_{part}_1") for part in ("labeled", "unlabeled")]
    segmenter = Stub(*logits, torch.cat(logits).detach())  # the critic's maps are made in one pass: batch norm is in test mode
    (step,) = drive(train_DAN, options, {"segmenter": segmenter, "critic": critic}, [authors_batch(golden)]).steps
    names = {"out_dan_generator": "adversarial", "out_dan_total": "total", "out_dan_discriminator": "critic"}
    return {name: step.terms[term] for name, term in names.items()}


def simeps_baselines(golden: Golden) -> Computed:
    """CPS twice: by its own script, and by that of simEps with two branches and no similarity term."""
    cps, by_simeps = two_networks.simeps_baselines_cps(golden), simeps.two_branches(golden)
    for name, value in by_simeps.items():
        torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(cps[name]))
    return {**cps, **simeps_dct(golden), **simeps_dan(golden), **industry.ucc(golden)}


MIXED = {"out_mixed_images": (1e-5, 1e-6), "out_mixed_targets": (1e-5, 1e-6)}

FILES = {
    "ict_2d": Parity(ict, tolerances=MIXED),
    "ict_3d": Parity(ict, tolerances=MIXED),
    "dct_2d": Parity(dct),
    "dan_2d": Parity(dan),
    "dan_3d": Parity(dan),
    "simeps_baselines": Parity(simeps_baselines),
}
