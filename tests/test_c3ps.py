"""C3PS and the network that is asked for a class: what their pages promise."""
from __future__ import annotations

import pytest
import torch
import train_C3PS
from parity_tools import golden_batch, gradient

from losses.class_weights import RecentDice
from networks import build
from networks.folding import for_inference

LABELS = torch.tensor([[[0, 1, 2, 2], [1, 1, 2, 255]]])
CLASSES = torch.tensor([2, 1, 2])
BOX = torch.tensor([[True, True, False, False], [True, True, False, False]])


@pytest.mark.parametrize("body, sides", [("unet", (32, 32)), ("vnet", (32, 32, 32))])
def test_all_classes_are_what_each_is_when_asked_for(body: str, sides: tuple[int, ...], narrow: None) -> None:
    torch.manual_seed(0)
    network = build("conditional", body=body, num_classes=4).eval()
    images = torch.randn(2, 1, *sides)
    with torch.no_grad():
        every = network(images)
        assert every.shape == (2, 4, *sides) and not every[:, 0].any()
        for classes in ([1, 3], [2, 2]):
            asked = network(images, torch.tensor(classes))
            assert asked.shape == (2, 2, *sides) and not asked[:, 0].any()
            torch.testing.assert_close(asked[:, 1], torch.stack([every[row, c] for row, c in enumerate(classes)]), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(for_inference(network)(images), every, atol=1e-4, rtol=1e-4)
    assert not torch.equal(every[:, 1], every[:, 2])


def test_a_condition_of_zeros_is_the_body(narrow: None) -> None:
    network = build("conditional", num_classes=3).eval()
    for table in network.tables:
        torch.nn.init.zeros_(table.weight)
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images)[:, 1:2], network.body(images))


def test_a_body_must_predict_once(narrow: None) -> None:
    for name in ("conditional", "two_classifiers"):
        with pytest.raises(ValueError, match="several predictions"):
            build(name, body="unet_cct")


def test_two_classifiers_share_all_but_the_last_convolution(narrow: None) -> None:
    network = build("two_classifiers", num_classes=3).eval()
    images = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        first, second = network(images)
        torch.testing.assert_close(torch.cat([first, second], 1), network.body(images))
        torch.testing.assert_close(for_inference(network)(images), first, atol=1e-4, rtol=1e-4)
    assert first.shape == second.shape == (1, 3, 32, 32)


def test_classes_are_asked_for_alike_and_then_by_how_hard_they_are() -> None:
    recent = RecentDice(3, keep=0.0)
    assert recent.shares(False).tolist() == recent.shares(True).tolist() == [0.5, 0.5]
    # Row 0, class 1: two of three pixels found and none else (Dice 4/5); row 1 of class 2: none of its own. The ignored pixel is nothing.
    labels = torch.tensor([[[1, 1, 1, 0]], [[1, 0, 0, 255]]])
    said = torch.tensor([[[1, 1, 0, 0]], [[0, 0, 0, 1]]])
    logits = torch.stack([torch.zeros(2, 1, 4), 2.0 * said - 1], 1)
    recent.seen(logits, labels, torch.tensor([1, 2]))
    torch.testing.assert_close(recent.dice, torch.tensor([0.8, 0.0]))
    assert recent.shares(False).tolist() == [0.5, 0.5]
    assert recent.shares(True).tolist() == pytest.approx([0.2 / 1.2, 1 / 1.2], abs=1e-6)
    half = RecentDice(3, keep=0.75)
    for expected in (0.2, 0.75 * 0.2 + 0.2):
        half.seen(logits, labels, torch.tensor([1, 2]))
        torch.testing.assert_close(half.dice, torch.tensor([expected, 0.0]))
    recent.seen(logits[:1], labels[:1] * 0 + 255, torch.tensor([2]))
    torch.testing.assert_close(recent.dice, torch.tensor([0.8, 0.0])), "a class without pixels is not judged"


class Asked(torch.nn.Module):
    """Gives logits by row, whatever it sees, and keeps what it was asked."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        self.images, self.classes = images, classes
        return torch.cat([torch.zeros_like(self.logits), self.logits], 1)


def terms_of(first: torch.Tensor, second: torch.Tensor, **words: object) -> tuple[dict[str, torch.Tensor], Asked]:
    batch, network = golden_batch(LABELS, 2), Asked(first)
    batch.images[2] = 5.0
    options = train_C3PS.Method(**words)
    return train_C3PS.losses(network, Asked(second), RecentDice(3), batch, CLASSES, BOX, 0.5, options), network


def answers(seed: int) -> torch.Tensor:
    """Of one labelled row, two unlabelled ones, and these in another context."""
    torch.manual_seed(seed)
    return torch.randn(5, 1, 2, 4, requires_grad=True)


def test_a_row_learns_whether_a_pixel_is_of_its_class() -> None:
    logits = answers(0)
    terms, network = terms_of(logits, answers(1), dice="squared")
    assert network.classes.tolist() == [2, 1, 2, 1, 2], "an image is asked for the same class in another context"
    counted = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 255]]])
    surely = torch.where(counted == 1, 40.0, -40.0)[:, None]
    there, _ = terms_of(torch.cat([surely, logits[1:].detach()]), answers(1))
    assert terms["supervised_1"] > 0.1 and there["supervised_1"] < 1e-4
    assert not gradient(terms["supervised_1"], logits)[0][0, 0, 1, 3].any(), "the ignored pixel teaches nothing"


def test_a_window_shows_an_image_in_the_context_of_another() -> None:
    _, network = terms_of(answers(0), answers(1))
    moved = network.images[3:, 0]
    assert (moved[0][BOX] == 1).all() and (moved[0][~BOX] == 5).all() and (moved[1][BOX] == 5).all() and (moved[1][~BOX] == 1).all()


def test_networks_teach_each_other_and_outside_the_window_nothing_is_learned() -> None:
    first, second = answers(0), answers(1)
    terms, _ = terms_of(first, second)
    for name, mine, rows in (("pseudo_1", first, slice(1, 3)), ("context_1", first, slice(3, 5)), ("pseudo_2", second, slice(1, 3))):
        to_first, to_second = gradient(terms[name], first, second)
        own, other = (to_first, to_second) if mine is first else (to_second, to_first)
        assert own[rows].any() and not other.any() and own.count_nonzero() == own[rows].count_nonzero()
    assert not gradient(terms["context_1"], first)[0][3:, 0, ~BOX].any()


def test_without_context_equal_networks_are_those_of_cross_pseudo_supervision() -> None:
    terms, _ = terms_of(answers(0), answers(0), context=0.0)
    assert terms["pseudo_1"] == terms["pseudo_2"]
    torch.testing.assert_close(terms["total"], 2 * terms["supervised_1"] + 0.5 * 2 * terms["pseudo_1"])
