"""AD-MT: teachers in turns, what they say together, and when the student's own class counts."""
from unittest import mock

import numpy as np
import pytest
import torch
import train_ADMT
from parity_tools import Stub, drive, golden_batch
from torch import nn

from dataloaders.augmentation.strong_views import beta_boxes, cutmix_view, inside
from dataloaders.catalog import DATA_SETS
from networks import build

SURE, UNSURE = torch.tensor([8.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.2, 0.0]).view(1, 2, 1, 1)


def rng_of(seed=0):
    return np.random.default_rng(seed)


def terms_of(p1, p2, weak, mix=None, **values):
    """A step with one labelled row and as many unlabelled ones as the teachers speak of; strong views are predicted as all alike."""
    n, batch = len(p1), golden_batch(torch.zeros(1, *p1.shape[2:], dtype=torch.long), len(p1))
    student = Stub(torch.cat([torch.zeros_like(weak[:1]), weak, torch.zeros_like(weak)]))
    options = train_ADMT.Method(**{"confidence": 0.0, **values})
    return train_ADMT.losses(student, Stub(p1), Stub(p2), batch, batch.images[-n:], mix, 1.0, options)


def test_turns_are_as_long_as_said_and_alternate():
    whose = train_ADMT.turns(5, 4000, rng_of())
    changes = np.flatnonzero(np.diff(whose)) + 1
    lengths = np.diff(changes)
    assert whose[0] == 1 and set(whose) == {1, 2} and lengths.min() == 1 and lengths.max() == 5
    assert np.abs(np.bincount(lengths, minlength=6)[1:] / len(lengths) - 0.2).max() < 0.05
    assert train_ADMT.turns(5, 4000, rng_of())[:100] == train_ADMT.turns(5, 100, rng_of())[:100], "the length of a run changes no turn"


class Watched(nn.Module):
    """A network that notes the mode in which it is asked."""

    def __init__(self):
        super().__init__()
        self.layer, self.modes = nn.Conv2d(1, 2, 1), []

    def forward(self, images):
        self.modes.append(self.training)
        return self.layer(images)


def test_the_teacher_in_turn_alone_moves_and_is_in_train_mode():
    student, teachers, seen = Watched(), [Watched(), Watched()], []
    batches = [golden_batch(torch.zeros(1, 8, 8, dtype=torch.long), 2, step) for step in range(4)]

    def after(step):
        seen.append([torch.equal(teacher.layer.bias, student.layer.bias) for teacher in teachers])

    with mock.patch.object(train_ADMT, "turns", lambda *drawn: [1, 2, 2, 1]):
        drive(train_ADMT, train_ADMT.Method(consistency=0.0), {"student": student}, batches,
              {"teacher1": teachers[0], "teacher2": teachers[1]}, rate=0.1, after=after)
    assert seen == [[True, False], [False, True], [False, True], [True, False]], "a copy while the ramp is young"
    assert [teacher.modes for teacher in teachers] == [[True, False, False, True], [False, True, True, False]]


def test_teachers_that_agree_have_no_conflict_and_are_their_fusion():
    logits = torch.randn(2, 2, 4, 4)
    terms = terms_of(logits, logits, -logits)
    assert not terms["conflict"].any() and torch.equal(terms["pseudo_labels"], logits.argmax(1))
    torch.testing.assert_close(terms["confidence"][:, 0], logits.softmax(1).amax(1))


def test_who_is_sure_weighs_more_and_the_student_decides_where_it_is_surer_still():
    sure, unsure = SURE.expand(1, 2, 2, 2), -UNSURE.expand(1, 2, 2, 2)
    assert (terms_of(sure, unsure, unsure)["pseudo_labels"] == 0).all(), "an unsure student has no say"
    conflict = terms_of(UNSURE.expand(1, 2, 2, 2), unsure, -sure)
    assert conflict["conflict"].all() and (conflict["pseudo_labels"] == 1).all() and (conflict["confidence"] > 0.99).all()
    assert (terms_of(UNSURE.expand(1, 2, 2, 2), UNSURE.expand(1, 2, 2, 2), -sure)["pseudo_labels"] == 0).all(), "no conflict, no say"


def test_under_cutmix_the_students_class_comes_from_where_the_pixels_come():
    """Row 0 has row 1's left half. The teachers contradict each other everywhere; the student is sure of another class in each row."""
    unsure, sure = UNSURE.expand(2, 2, 2, 4), SURE.expand(1, 2, 2, 4)
    box = torch.zeros(2, 1, 2, 4, dtype=torch.bool)
    box[0, ..., :2] = True
    mix, weak = (box, torch.tensor([1, 0])), torch.cat([sure, -sure])
    mixed = terms_of(unsure, -unsure, weak, mix)["pseudo_labels"]
    published = terms_of(unsure, -unsure, weak, mix, **train_ADMT.PRESETS["published_code"])["pseudo_labels"]
    assert mixed[0].tolist() == [[1, 1, 0, 0]] * 2 and published[0].tolist() == [[0, 0, 0, 0]] * 2
    assert mixed[1].tolist() == published[1].tolist() == [[1, 1, 1, 1]] * 2


@pytest.mark.parametrize("loss", ["dice", "ce"])
def test_where_nothing_is_sure_only_labels_teach(loss):
    logits = torch.randn(2, 2, 4, 4)
    terms = terms_of(logits, logits, logits, confidence=1.1, pseudo_loss=loss)
    assert terms["unsupervised"] == 0 and terms["total"] == terms["supervised"] and not terms["mask"].any()


def test_boxes_lie_in_the_image_and_show_the_partner():
    for sides in ((37, 50), (20, 24, 16)):
        starts, stops = beta_boxes(rng_of(), 50, sides)
        assert (starts >= 0).all() and (stops <= sides).all() and (starts <= stops).all()
        mask = inside(starts, stops, sides)
        assert mask.shape == (50, 1, *sides) and mask.flatten(1).sum(1).tolist() == (stops - starts).prod(1).tolist()
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    view, (box, partner) = cutmix_view(images, rng_of())
    assert torch.equal(view, torch.where(box, partner.view(4, 1, 1, 1).float(), images)) and sorted(partner.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("data, sides", [("ACDC", (16, 16)), ("LA", (16, 16, 16))])
def test_each_turn_has_its_strong_view(data, sides):
    images = torch.rand(6, 1, *sides)
    recoloured, nothing = train_ADMT.strong_view(images, 1, rng_of(), DATA_SETS[data])
    mixed, (box, _) = train_ADMT.strong_view(images, 2, rng_of(), DATA_SETS[data])
    assert nothing is None and recoloured.shape == images.shape and not torch.equal(recoloured, images)
    assert torch.equal(mixed[~box], images[~box]) and not torch.equal(mixed, images)


def test_a_real_student_learns_from_both_turns():
    student, batches = build("unet", num_classes=2, dropout=0.0), []
    for step in range(2):
        batch = golden_batch(torch.ones(1, 16, 32, dtype=torch.long), 2, step)
        batch.images = torch.rand(3, 1, 16, 32)
        batches.append(batch)
    with mock.patch.object(train_ADMT, "turns", lambda *drawn: [1, 2]):
        run = drive(train_ADMT, train_ADMT.Method(confidence=0.0), {"student": student}, batches, rate=0.1)
    assert [step.arguments["mix"] is None for step in run.steps] == [True, False]
    assert all(step.terms["unsupervised"] > 0 for step in run.steps) and list(run.evaluated) == ["student", "teacher1", "teacher2"]
