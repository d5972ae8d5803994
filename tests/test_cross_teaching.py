"""Cross teaching: who learns from whom and by what, its rates, its protocol, and weights from a file."""
from __future__ import annotations

from math import e
from pathlib import Path

import pytest
import torch
import train_CrossTeaching
from harness import Bench
from parity_tools import Stub, drive, golden_batch, gradient
from swin_weights import NARROW, imagenet
from torch import Tensor
from train_CrossTeaching import Method as CrossTeaching

from dataloaders import catalog
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.splits import split as splits
from dataloaders.splits.split import SplitRequest
from engine.schedules import SCHEDULES
from losses import dice_per_class


def terms_of(first: Tensor, second: Tensor, weight: float = 0.5, labels: Tensor | None = None) -> dict[str, Tensor]:
    """The method on one labelled row (all background unless given) and the unlabelled rows behind it."""
    given = torch.zeros(1, *first.shape[2:], dtype=torch.long) if labels is None else labels
    return train_CrossTeaching.losses(Stub(first), Stub(second), golden_batch(given, len(first) - 1), weight, CrossTeaching())


def logits(seed: int) -> Tensor:
    return torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_networks_that_agree_for_certain_teach_each_other_nothing() -> None:
    said = torch.randint(0, 4, (3, 6, 5), generator=torch.Generator().manual_seed(0))
    certain = 100.0 * torch.nn.functional.one_hot(said, 4).movedim(-1, 1)
    terms = terms_of(certain, certain)
    assert terms["pseudo_1"] == pytest.approx(0, abs=1e-5) and terms["pseudo_2"] == pytest.approx(0, abs=1e-5)
    assert terms["agreement"] == 1


def test_the_pseudo_loss_is_the_golden_dice_of_the_other_networks_argmax() -> None:
    """Foreground .1 .8 / .4 .9, labels 0 1 / 1 1: classes 0.189188 and 0.090909, mean 0.140049."""
    foreground = torch.tensor([[0.1, 0.8], [0.4, 0.9]])
    first = torch.stack([1 - foreground, foreground]).log().expand(2, -1, -1, -1)
    second = torch.tensor([[-1.0, 1.0], [1.0, 1.0]]).expand(2, 2, 2, 2) * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
    terms = terms_of(first, second)
    assert terms["pseudo_1"].item() == pytest.approx(0.140049, abs=1e-6)
    assert terms["pseudo_labels"][1].tolist() == [[[0, 1], [1, 1]]]


def test_no_gradient_reaches_the_network_that_teaches() -> None:
    first, second = logits(1), logits(2)
    terms = terms_of(first, second)
    own, cross = gradient(terms["pseudo_1"], first, second)
    assert own[1:].abs().sum() > 0 and not own[:1].any() and not cross.any()
    cross, own = gradient(terms["pseudo_2"], first, second)
    assert own[1:].abs().sum() > 0 and not cross.any()
    assert not any(part[1:].any() for part in gradient(terms["supervised_1"], first, second))


def test_swapping_the_networks_swaps_the_terms() -> None:
    terms, swapped = terms_of(logits(1), logits(2)), terms_of(logits(2), logits(1))
    assert terms["pseudo_1"] == swapped["pseudo_2"] and terms["supervised_2"] == swapped["supervised_1"]
    torch.testing.assert_close(terms["total"], swapped["total"])


def test_the_total_is_the_formula_and_without_weight_supervised_learning() -> None:
    terms = terms_of(logits(1), logits(2), weight=0.3)
    supervised, pseudo = (terms[f"{name}_1"] + terms[f"{name}_2"] for name in ("supervised", "pseudo"))
    torch.testing.assert_close(terms["total"], supervised + 0.3 * pseudo)
    torch.testing.assert_close(terms_of(logits(1), logits(2), weight=0.0)["total"], supervised)


def test_a_class_that_the_teacher_never_names_is_driven_to_zero() -> None:
    """Its Dice is 1 - 1e-5 / (sum p^2 + 1e-5), finite and with a gradient."""
    first, second = logits(1), torch.zeros(3, 4, 6, 5)
    second[:, 1] = 5
    terms = terms_of(first, second)
    lesson = torch.ones(2, 6, 5, dtype=torch.long)
    probability = first[1:].softmax(1)
    absent = dice_per_class(probability, lesson)[3]
    torch.testing.assert_close(absent, 1 - 1e-5 / ((probability[:, 3] ** 2).sum() + 1e-5))
    (slope,) = gradient(terms["pseudo_1"], first)
    assert terms["pseudo_1"].isfinite() and (slope[1:, 3] > 0).all()
    assert not gradient(terms["supervised_1"], second.requires_grad_())[0].any()


def test_both_see_the_same_images_and_the_weight_follows_the_ramp() -> None:
    networks = {"model1": Stub(logits(1)), "model2": Stub(logits(2))}
    batches = [golden_batch(torch.zeros(1, 6, 5, dtype=torch.long), 2, step) for step in (0, 14_000, 29_999)]
    run = drive(train_CrossTeaching, CrossTeaching(), networks, batches)
    assert all(torch.equal(a, b) for a, b in zip(*(network.seen for network in networks.values())))
    weights = [step.arguments["weight"] for step in run.steps]
    assert weights == pytest.approx([0.1 * e**-5, 0.1 * e ** (-5 * (1 - 93 / 200) ** 2), 0.1 * e ** (-5 * (1 - 199 / 200) ** 2)])
    assert [*run.evaluated] == ["by_validation", *networks, "ensemble"] and run.evaluated["by_validation"]


def test_rates_follow_the_new_counter() -> None:
    """Step n has the rate of n steps done, so that it would be 0 after the last."""
    assert train_CrossTeaching.PRESETS["ACDC"]["schedule"] == "poly_next"
    rate = SCHEDULES["poly_next"]
    assert (rate(0, 0.01, 100), rate(100, 0.01, 100)) == (0.01, 0.0) and rate(1, 0.01, 100) == pytest.approx(0.01 * 0.99**0.9)


def test_volumes_are_refused() -> None:
    class Volumes:
        data = catalog.DATA_SETS["LA"]

        def refuse(self, condition: object, sentence: str) -> None:
            if condition:
                raise UserError(sentence)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_CrossTeaching, "Run", lambda options: Volumes())
        with pytest.raises(UserError, match="LA has volumes: .*train_CPS.py"):
            train_CrossTeaching.main(CrossTeaching())


class Lists:
    """ACDC as lists of cases; `opened` are the parts that were asked for."""

    data = catalog.DATA_SETS["ACDC"]

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.root = None

    def cases(self, part: str) -> list[Case]:
        self.opened.append(part)
        sizes = {"train": 70, "val": 10, "test": 20}
        return [Case(f"{part}{k:03d}_{frame}", Path("image"), Path("label"), f"{part}{k}") for k in range(sizes[part]) for frame in (1, 2)]


def test_the_protocol_of_the_paper_tests_thirty_patients_at_the_last_step() -> None:
    lists = Lists()
    split = splits.make_split(lists, SplitRequest(protocol="ctct", labeled_num="7"))  # type: ignore[arg-type]
    assert (split.name, split.selection, len(split.val)) == ("ctct", "last", 0)
    assert (len(split.labeled), len(split.unlabeled)) == (14, 126) and set(lists.opened) <= {"train", "val"}
    tested = splits.test_cases(lists, SplitRequest(protocol="ctct"))  # type: ignore[arg-type]
    assert len({case.group for case in tested}) == 30 and not {case.name for case in tested} & {case.name for case in split.unlabeled}
    official = splits.make_split(lists, SplitRequest(protocol="official", labeled_num="7"))  # type: ignore[arg-type]
    assert [case.name for case in official.labeled] == [case.name for case in split.labeled]


def test_weights_from_a_file_are_in_the_run_and_in_its_name(bench: Bench) -> None:
    file = bench.folder / "swin.pth"
    state = imagenet(*NARROW.values())
    torch.save({"model": state}, file)
    words = ("--pretrained", str(file), "--optimizer2", "adam", "--base_lr2", "1e-12", "--max_iterations", "1")
    end = bench.train("CrossTeaching", *words)
    assert end.code == 0 and "start from swin.pth" in end.out, end.err
    folder = bench.run_folder()
    assert "pretrained=swin.pth" in folder.name
    weights = torch.load(folder / "last.pt", weights_only=True)["networks"]["model2"]["state"]
    torch.testing.assert_close(weights["layers_up.1.blocks.0.mlp.fc1.weight"], state["layers.1.blocks.0.mlp.fc1.weight"])
    scratch = bench.train("CrossTeaching", "--max_iterations", "1", model="scratch")
    for line in ("model2 (swin_unet): trained from scratch", "windows of 4x4, 4x4, 2x2, 1x1", "validation Dice of ensemble", "Quoted: "):
        assert line in scratch.out, scratch
    refused = bench.train("CrossTeaching", "--patch_size", "48", "48", model="size")
    assert refused.code == 2 and "swin_unet needs multiples of 32; the nearest are 32 32 and 64 64" in refused.err
    unused = bench.train("CrossTeaching", "--model2", "unet", "--pretrained", str(file), model="unused")
    assert unused.code == 2 and "no network of this run starts from such a file" in unused.err
