"""Writes docs/helpers.md: what training scripts share, with signatures and what each says of itself.

    python docs/helpers.py

A name that is added to `SECTIONS` is all that is written here; tests/test_helpers.py holds the page to the code.
"""
from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "helpers.md"

HEAD = """# Helpers

What a training script finds ready, by the place that it is imported from. Losses and networks take tensors and give tensors: none
of them knows an option, a path or a data set. Read this page before you write a function that sounds as if it should be there; a
function moves here when a second method needs it.

`logits` are (B, C, *sides) float32, two sides for images and three for volumes; `labels` are (B, *sides) int64, 255 is ignored.
Losses against labels leave ignored pixels out and are 0 where nothing is left. A loss is a scalar unless it says otherwise. None
detaches its target: a script that wants that does it.

Made by `python docs/helpers.py` from the code itself.
"""

SECTIONS: list[tuple[str, str, str, list[str]]] = [
    ("Learning from labels", "losses", "", [
        "supervised_loss", "labels_loss", "cross_entropy", "focal_loss", "ohem_cross_entropy", "dice_loss", "unsquared_dice_loss",
        "dice_per_class", "pixel_weighted_cross_entropy", "pixel_weighted_dice"]),
    ("Mixtures of two images", "losses.mixtures", "", ["halves", "mixture_loss", "labeled_mixture_loss"]),
    ("Agreement of two predictions", "losses", "The first seven are element-wise, since methods weigh and mask them: take `.mean()`.", [
        "softmax_mse", "softmax_kl", "sigmoid_mse", "sigmoid_kl", "symmetric_kl", "eased_mse", "sharpened", "softmax_dice",
        "plain_dice", "masked_dice",
        "contested", "standardised", "standardised_mse", "similarity_map", "similarity_loss", "symmetric_similarity_loss"]),
    ("How sure a prediction is", "losses", "", ["entropy_map", "entropy_bits"]),
    ("Pseudo-labels", "losses.pseudo_labels", "", [
        "hard_labels", "likeliest", "sure_cross_entropy", "sure_dice", "kept_cross_entropy", "class_aware",
        "relative_confidence", "damped_loss", "concentration", "complementary_loss", "stability"]),
    ("Sums over the batch of all processes", "losses",
     "For what is no mean over rows (a Dice, a mean over the pixels that pass a threshold). With one process they give back what they got.",
     ["batch_sum", "batch_sums", "batch_mean"]),
    ("Weights of classes", "losses.class_weights", "The first three are classes with `seen`, to be kept by `run.keep` (DHC; C3PS).", [
        "DifficultyWeights", "FrequencyWeights", "RecentDice", "by_frequency", "hard_dice", "weighted_cross_entropy", "weighted_dice"]),
    ("Semantic similarity", "losses.semantic", "Affinity inside an image, class prototypes across images (SemSim).", [
        "affinity", "propagate", "local_prototypes", "similarities", "queried", "agreement", "taught", "cut_mixed", "middles",
        "in_regions", "rectified"]),
    ("Predictions within an object", "losses.uncertainty", "", ["instances_of", "instance_variance"]),
    ("Contrast of hard positions", "losses.contrast", "Of few positions of each class with those of others (ReCo).", [
        "regions", "mean_of_class", "likeness", "one_of", "drawn", "regional_contrast"]),
    ("Remembered features", "losses.correlation", "The first is a class, to be kept by `run.keep` (CAML).", [
        "Memory", "surest", "correlation"]),
    ("Weights by a step that is tried out", "losses.supervised", "They need second derivatives (MLB-Seg).", [
        "label_costs", "meta_gradient", "helpful"]),
    ("Contrast of patches", "losses.correlation", "The first is a class, to be kept by `run.keep` (PatchCL).", [
        "Queues", "gaussian_contrast", "nearest"]),
    ("Prototypes of whole images", "losses.prototypes", "Each image has one for each class (SCP-Net).", [
        "mean_features", "cosines_to", "by_own_and_by_others", "agreement_of_votes"]),
    ("Evidence", "losses.evidential", "Classifiers that give a Dirichlet distribution at each position (DC-Net).", [
        "dirichlet", "vacuity", "expected_cross_entropy", "misleading_evidence", "weighted_by_position"]),
    ("Ranked features", "losses.contrast", "Of positions in patches, as `displacement.cut` gives them (CRII-Net).", [
        "centres", "of_other_patches", "rank_loss"]),
    ("Where a prediction is ambiguous", "losses.ambiguity", "AC-MT's measures beyond entropy.", [
        "far_from_prototype", "rectified_labels", "prototypes", "distances", "label_errors", "confident_joint"]),
    ("Likeness to a class of another image", "losses.class_similarity", "CISC-R and STI.", [
        "prototype", "similarity", "similarity_errors", "similar_to_partners", "weighted_loss", "pairs_loss", "unlike_anchors", "anchors",
        "anchor_errors"]),
    ("Passes through a network", "networks",
     "Every network also has `encode(images)`, which gives maps, the finest first, `decode(maps)` and `head(features)`; calling it is "
     "their composition.", ["logits_of", "logits_and_features", "logits_with_dropped_channels", "feature_channels", "deepest",
                            "deepest_width", "with_parameters", "noisy", "entropy_over_passes", "grouped"]),
    ("Passes beside the batch", "networks.passes", "", ["statistics_kept"]),
    ("Labels over several scales", "networks.scales", "For `run.predict_unlabeled`.", ["AtScales"]),
    ("Perturbations of feature maps", "networks.perturbations", "", ["feature_noise", "feature_dropout", "without_channels"]),
    ("Teachers", "networks", "The moving average with warm-up is SSL4MIS's; many published methods have none.", [
        "frozen_copy", "ema_update", "average_weights", "risen_decay"]),
    ("Networks of several sites", "networks", "As a server has it (FSSL-PLD).", ["weighted_mean"]),
    ("Images of several sites", "dataloaders.splits.sites", "", ["by_draw", "by_centre"]),
    ("Initial weights", "networks.initial", "", ["start_apart", "start_kaiming"]),
    ("Strong views", "dataloaders.augmentation.strong_views",
     "Give `batch.rng`, and the data set's `run.data.mean` and `run.data.std`.", [
        "recoloured", "recoloured_in_part", "without_colours", "others_of", "pasted_view", "mixed_view", "with_strong_rows",
        "boxes_of_noise",
        "color_jitter", "gaussian_blur", "grainy", "cutout", "cutmix_boxes", "cutout_view",
        "cutmix_view", "beta_boxes", "inside"]),
    ("Labelled partners", "dataloaders.augmentation.pairs", "`Search.partners` gives each image of a batch one that shows a class of it.", [
        "Search"]),
    ("Lists for self-training", "dataloaders.splits.self_training", "", [
        "supervised_list", "retraining_list", "thirds", "by_score", "lower_half"]),
    ("Boxes for copy-paste", "dataloaders.augmentation.copy_paste", "", ["paste_box", "half_box", "half_boxes", "cut_in"]),
    ("Patches of one class", "dataloaders.augmentation.patches", "", ["patch_sides", "patch_draws", "class_patches"]),
    ("Views that can be taken back", "dataloaders.augmentation.reversible", "", ["five_views", "viewed", "viewed_labels", "said_together"]),
    ("Patches that change places", "dataloaders.augmentation.displacement", "", [
        "check_grid", "sureness", "sure_into_unsure", "unsure_into_sure", "displaced", "cut", "joined"]),
    ("Strong views of volumes", "dataloaders.augmentation.strong_volumes", "Give `batch.rng`.", [
        "contrast_view", "field_view", "view_with_boxes"]),
    ("nnU-Net's augmentation of a batch", "dataloaders.augmentation.nnunet", "", ["augment"]),
    ("A learned augmentation", "dataloaders.augmentation.ctaugment", "", ["CTAugment"]),
    ("A stage of labels alone", "engine.first_stage", "", ["supervised_stage"]),
    ("Two annotated slices", "dataloaders.propagation", "Arrays in and out, for `run.make_maps` (DeSCO).", ["propagated"]),
    ("Ramps", "engine.schedules", "`run.ramp`, below, is the one that heeds `--ramp`.", [
        "sigmoid_rampup", "linear_rampup", "cosine_rampdown", "epoch_before", "admitted_entropy"]),
    ("Metrics", "metrics", "NumPy arrays in, numbers out. Validation and tests call them; a method seldom does.", [
        "dice", "jaccard", "binary_metrics", "score_case", "summarize", "largest_component"]),
]
ABOUT_A_RUN = """## What `run` offers

`run.data` is the description of the data set (`num_classes`, `channels`, `dimensions`, `mean`, `std`), `run.world` the number of
processes.
"""
ABOUT_A_BATCH = """## What a batch has

The labelled rows stand first.

| | |
|---|---|
"""
OF_A_RUN = ["network", "keep", "optimizer", "compiled", "evaluates", "batches", "ramp", "update", "after_step", "finish", "say", "refuse",
            "stage", "best", "items", "label", "class_counts", "predict_unlabeled", "make_maps", "augmented", "as_tested", "once"]
OF_A_BATCH = ["images", "labels", "labeled", "unlabeled", "n_labeled", "rng", "shared_rng", "step", "epoch", "last_of_epoch", "cases",
              "maps", "views", "mates", "strong"]


def called(name: str, function: Callable[..., Any]) -> str:
    """A function as it is called: names and defaults, without types."""
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = "" if parameter.default is parameter.empty else f"={short(parameter.default)}"
        parameters.append(f"{star}{parameter.name}{default}")
    return f"{name}({', '.join(parameters)})"


def short(value: object) -> str:
    """A default as one would type it; what is long is left to the docstring."""
    if isinstance(value, tuple):
        return f"({', '.join(map(short, value))})"
    text = f"{value:.4g}" if isinstance(value, float) and value != int(value) else repr(value)
    return text if len(text) < 40 else "..."


def said(thing: Any) -> str:
    """All that a docstring says, a blank line less between its paragraphs."""
    return "\n".join(line.rstrip() for line in (inspect.getdoc(thing) or "").splitlines()).replace("\n\n", "\n")


def entry(name: str, thing: Any) -> str:
    indented = "\n".join(f"    {line}" for line in said(thing).splitlines())
    return f"{called(name, thing)}\n{indented}\n"


def attributes(kind: type) -> dict[str, str]:
    """What the string under a field of a dataclass says, by its name."""
    lines = inspect.getsource(kind).splitlines()
    found = {}
    for field in fields(kind):
        at = next(k for k, line in enumerate(lines) if line.strip().startswith(f"{field.name}:"))
        text = []
        for line in lines[at + 1 :]:
            text.append(line.strip())
            if not text[0].startswith('"""') or text[-1].endswith('"""'):
                break
        found[field.name] = " ".join(text).strip('"') if text[0].startswith('"""') else ""
    return found


def listed(entries: list[str]) -> str:
    return "```text\n" + "\n".join(entries) + "```\n"


def page() -> str:
    """The page."""
    blocks = [HEAD]
    for title, module, remark, names in SECTIONS:
        blocks += [f"## {title}\n", f"`from {module} import ...`\n", *([f"{remark}\n"] if remark else []),
                   listed([entry(name, getattr(import_module(module), name)) for name in names])]
    from dataloaders.batches.loader import Batch
    from engine import Run
    blocks += [ABOUT_A_RUN, listed([entry(f"run.{name}", getattr(Run, name)) for name in OF_A_RUN])]
    about = attributes(Batch)
    rows = [f"| `batch.{name}` | {about[name] if name in about else said(getattr(Batch, name))} |" for name in OF_A_BATCH]
    return "\n".join([*blocks, ABOUT_A_BATCH + "\n".join(rows) + "\n"])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "code"))
    PAGE.write_text(page(), encoding="utf-8")
