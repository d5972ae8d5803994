"""What the pages of FixMatch and its published forms promise; the golden files of both are in parity_cases/fixmatch.py."""
import shutil
from functools import partial
from math import log

import h5py
import numpy as np
import parity_tools
import pytest
import torch
import train_FixMatch
import train_FixMatchCTA
import train_FixMatchStandardAugs
from harness import content, outcome
from parity_tools import Stub, drive, golden_batch, gradient
from test_methods import discs, hard_dice
from torch import nn

from dataloaders.augmentation.strong_views import recoloured
from dataloaders.batches.loader import Batch
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from engine import parse
from losses import supervised_loss
from losses.pseudo_labels import complementary_loss, concentration, hard_labels, relative_confidence
from networks import build


def logits_of_probabilities(*rows):
    """(1, C, 1, len(rows)) logits, a pixel for each list of probabilities."""
    return torch.tensor(rows).T[None, :, None].log()


def terms_of(student, teacher, labels, n_unlabeled, options):
    batch = golden_batch(labels, n_unlabeled)
    return train_FixMatch.losses(student, teacher, batch, batch.unlabeled, 1.0, options)


# Pseudo-labels


def test_masks_by_hand():
    logits = logits_of_probabilities([0.5, 0.3, 0.12, 0.08], [0.12, 0.5, 0.3, 0.08], [0.26, 0.3, 0.22, 0.22], [0.02, 0.96, 0.01, 0.01])
    relative = relative_confidence(logits)[0, :, 0].T
    torch.testing.assert_close(relative[0], torch.tensor([0.84, 0.44, 0.08, 0.0]), atol=1e-5, rtol=0)
    assert relative[2].max().item() == pytest.approx(0.267, abs=1e-3)
    assert hard_labels(logits, 0.8, "background").tolist() == [[[0, 1, 0, 1]]], "the third is not sure: background, as published"
    assert hard_labels(logits, 0.95).tolist() == [[[255, 255, 255, 1]]], "ours: not counted"
    assert hard_labels(logits, 0.0).tolist() == [[[0, 1, 1, 1]]], "no threshold"
    reached = relative[3].max().item(), logits.softmax(1)[0, 1, 0, 3].item()
    assert hard_labels(logits, reached[0], "background")[0, 0, 3] == 0, "must be above"
    assert hard_labels(logits, reached[1])[0, 0, 3] == 1, "may be at"


@pytest.mark.parametrize("dice", ["squared", "linear"])
def test_without_a_sure_pixel_the_strong_views_count_nothing(dice):
    student, teacher = torch.randn(2, 3, 4, 4, requires_grad=True), Stub(torch.zeros(1, 3, 4, 4))
    terms = terms_of(Stub(student), teacher, torch.zeros(1, 4, 4, dtype=torch.long), 1, train_FixMatch.Method(dice=dice))
    assert terms["unsupervised"] == 0 and terms["total"] == terms["supervised"] and not terms["mask"].any()
    (slope,) = gradient(terms["total"], student)
    assert slope.isfinite().all() and not slope[1].any() and slope[0].any()


def test_unsure_pixels_have_no_say():
    student, other, target = torch.randn(2, 3, 4, 4), torch.randn(3, 4, 4), torch.zeros(1, 3, 4, 4)
    target[:, 1, :, :2] = 9.0
    changed = student.clone()
    changed[1, :, :, 2:] = other[:, :, 2:]
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    one, two = (terms_of(Stub(z), Stub(target), labels, 1, train_FixMatch.Method())["unsupervised"] for z in (student, changed))
    assert one == two > 0
    batch, strong = golden_batch(labels, 1), torch.zeros(2, 1, 4, 4)
    unsure = torch.cat([student[:1], target])
    pair = [train_FixMatchStandardAugs.losses(Stub(unsure, z), batch, strong, 1.0, train_FixMatchStandardAugs.Method())
            for z in (student, changed)]
    assert pair[0]["unsupervised"] != pair[1]["unsupervised"], "the published form teaches them background"


def test_published_forms_sum_cross_entropy_and_dice():
    weak, strong, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), 9 * torch.randn(2, 3, 4, 4)
    batch = golden_batch(torch.ones(1, 4, 4, dtype=torch.long), 1)
    batch.strong = batch.images
    whole = train_FixMatchCTA.losses(Stub(weak, strong), Stub(target), batch, 1.0, train_FixMatchCTA.Method())
    both = 2 * supervised_loss(weak[:1], batch.labels), 2 * supervised_loss(strong[1:], target[1:].argmax(1))
    torch.testing.assert_close((whole["supervised"], whole["unsupervised"]), both)
    standard = train_FixMatchStandardAugs.losses(Stub(weak, strong), batch, batch.images, 1.0,
                                                 train_FixMatchStandardAugs.Method())
    torch.testing.assert_close(standard["supervised"], both[0])


# Negative learning


def test_concentration_is_0_where_all_is_alike_and_1_in_one_pixel():
    alike = torch.randn(2, 4, 1, 1).expand(2, 4, 6, 5)
    assert concentration(alike).item() == pytest.approx(0, abs=1e-6)
    sharp = torch.full((1, 2, 2, 2), -60.0)  # class 0 in one pixel, class 1 in the other three
    sharp[0, 0, 0, 0], sharp[0, 1].view(-1)[1:] = 60.0, 60.0
    assert concentration(sharp).item() == pytest.approx((1 + 1 - log(3) / log(4)) / 2, abs=1e-6)
    far = torch.full((1, 2, 8, 8), -300.0, requires_grad=True)
    assert gradient(concentration(far), far)[0].isfinite().all()


def test_complementary_loss_by_hand():
    logits, target = logits_of_probabilities([0.9, 0.1], [0.2, 0.8]), logits_of_probabilities([0.6, 0.4], [0.3, 0.7])
    least = [-log(np.exp(0.9) / (np.exp(0.9) + np.exp(0.1))), -log(np.exp(0.8) / (np.exp(0.8) + np.exp(0.2)))]
    assert complementary_loss(logits, target).item() == pytest.approx(concentration(logits).item() * np.mean(least), rel=1e-5)


# Views


class Texture(nn.Module):
    """A network that looks at the pixels: two classes by grey level."""

    def forward(self, images):
        return torch.cat([-40 * (images[:, :1] - 0.5), 40 * (images[:, :1] - 0.5)], 1)


def batch_with_rng(images, labels, step=0):
    return Batch(images, labels, step, 0, False, tuple(map(str, range(len(images)))), np.random.default_rng(step))


def test_views_are_aligned():
    """With the identity as strong view the loss is least unshifted; and a jittered view has its edges where the weak one has them."""
    torch.manual_seed(0)
    images = (torch.rand(1, 1, 8, 8) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    batch = batch_with_rng(torch.cat([images, images]), torch.zeros(1, 32, 32, dtype=torch.long))
    options = train_FixMatch.Method(jitter=(0.0, 0.0, 0.0, 0.0))
    views = recoloured(batch.unlabeled, batch.rng, options.jitter)
    assert torch.equal(views, batch.unlabeled)
    found = {}
    for shift in range(-2, 3):
        terms = train_FixMatch.losses(Texture(), Texture(), batch, views.roll(shift, 3), 1.0, options)
        found[shift] = terms["unsupervised"].item()
    assert min(found, key=found.__getitem__) == 0 and found[0] < 0.01 < found[1]
    strong = recoloured(batch.unlabeled, batch.rng, (0.2, 0.5, 0.8, 0.2))
    assert not torch.equal(strong, views)
    edges = [(x[..., 1:] - x[..., :-1]).abs() > 1e-3 for x in (views, strong)]
    assert torch.equal(*edges)


def test_student_and_teacher_see_what_the_page_says():
    student, teacher = Stub(torch.randn(3, 2, 8, 8)), Stub(torch.randn(2, 2, 8, 8))
    batch = golden_batch(torch.zeros(1, 8, 8, dtype=torch.long), 2)
    drive(train_FixMatch, train_FixMatch.Method(), {"student": student}, [batch], {"teacher": teacher})
    assert torch.equal(student.seen[0][:1], batch.labeled), "labelled images are seen weakly"
    views = student.seen[0][1:]
    assert len(student.seen) == 1 and not torch.equal(views, batch.unlabeled) and (views < 1).any()
    assert [seen.shape for seen in teacher.seen] == [batch.unlabeled.shape] and torch.equal(teacher.seen[0], batch.unlabeled)
    apart = Stub(torch.randn(1, 2, 8, 8), torch.randn(2, 2, 8, 8))
    drive(train_FixMatch, train_FixMatch.Method(passes="apart"), {"student": apart}, [batch], {"teacher": teacher})
    assert [len(seen) for seen in apart.seen] == [1, 2]


def test_blur_and_cutout_are_options_of_the_strong_view():
    images, labels = torch.rand(6, 1, 16, 16), torch.zeros(0, 16, 16, dtype=torch.long)

    def views(**options):
        student, teacher = Stub(torch.zeros(6, 2, 16, 16)), Stub(torch.zeros(6, 2, 16, 16))
        given = train_FixMatch.Method(jitter=(0.0, 0.0, 0.0, 0.0), **options)
        drive(train_FixMatch, given, {"student": student}, [batch_with_rng(images, labels)], {"teacher": teacher})
        return student.seen[0]

    assert torch.equal(views(), images)
    assert all((view == 0).any() for view in views(cutout=1.0)) and not (images == 0).any()
    assert (views(blur=1.0).var((2, 3)) < images.var((2, 3))).all()


# The moving average, and steps that are left out


def test_the_standard_form_never_asks_its_moving_average():
    labels, weak, strong = torch.zeros(1, 8, 8, dtype=torch.long), torch.randn(2, 2, 8, 8), torch.randn(2, 2, 8, 8)
    totals = []
    for k in range(2):
        teacher = Stub(k * torch.randn(2, 2, 8, 8))
        options = train_FixMatchStandardAugs.Method()
        networks, kept = {"student": Stub(weak, strong)}, {"teacher": teacher}
        run = drive(train_FixMatchStandardAugs, options, networks, [golden_batch(labels, 1)], kept)
        assert not teacher.seen
        totals.append(run.steps[0].terms["total"].item())
    assert totals[0] == totals[1]


def test_a_batch_of_little_foreground_changes_no_weight():
    """By the labelled rows alone: there are no labels of the others. 255 is no foreground."""
    for share, moves in ((0, False), (5, False), (6, True)):
        labels = torch.zeros(1, 16, 16, dtype=torch.long)
        labels[0, :4] = 255
        labels[0, 4, :share] = 1
        student = build("unet", num_classes=2)
        before = student.out.weight.clone()
        batch = golden_batch(labels, 1)
        batch.strong = torch.rand_like(batch.images)
        batch.images = torch.rand_like(batch.images)
        run = drive(train_FixMatchCTA, train_FixMatchCTA.Method(), {"student": student}, [batch], rate=0.1)
        assert (not torch.equal(student.out.weight, before)) == moves
        assert run.kept["policy"].count == moves and len(run.steps) == 1


def test_two_discs_are_learnt_in_forty_steps():
    images, labels = discs()
    torch.manual_seed(0)
    student = build("unet", num_classes=2, dropout=0.0)
    both = torch.cat([images, images.flip(-1)])
    options = train_FixMatch.Method(consistency=1.0, consistency_rampup=0.0)
    run = drive(train_FixMatch, options, {"student": student}, [batch_with_rng(both, labels, step) for step in range(40)], rate=0.1)
    assert list(run.evaluated) == ["student", "teacher"]
    assert run.steps[-1].terms["supervised"] < run.steps[0].terms["supervised"] / 10
    assert run.steps[-1].terms["mask"].float().mean() > 0.5 > run.steps[0].terms["mask"].float().mean()
    student.train()
    for _ in range(20):
        with torch.no_grad():
            student(images)
    assert hard_dice(student, images, labels) > 0.9


# The command line


def test_published_forms_are_scripts_with_their_published_values(tmp_path):
    given = ["--dataset", "ACDC", "--root_path", str(tmp_path)]
    standard = parse(train_FixMatchStandardAugs.Method, train_FixMatchStandardAugs.PRESETS, given)
    cta = parse(train_FixMatchCTA.Method, train_FixMatchCTA.PRESETS, given)
    assert (standard.confidence, standard.jitter, standard.schedule) == (0.8, (0.8, 0.8, 0.8, 0.2), "poly")
    assert (cta.confidence, cta.min_foreground, cta.schedule) == (0.0, 0.02, "poly_next")


@pytest.mark.parametrize("words", [["--variant", "published_cta"], ["--variant=published_standard"]])
def test_the_variants_of_before_are_named_with_what_to_type_now(words):
    with pytest.raises(UserError, match="python code/train_FixMatchCTA.py, python code/train_FixMatchStandardAugs.py"):
        parse(train_FixMatch.Method, train_FixMatch.PRESETS, ["--dataset", "Phantom", *words])


def test_what_cannot_be_is_refused(monkeypatch):
    monkeypatch.setitem(parity_tools.DATA_SETS, "ACDC", DATA_SETS["LA"])
    for script, options in ((train_FixMatch, train_FixMatch.Method()), (train_FixMatchCTA, train_FixMatchCTA.Method()),
                            (train_FixMatchStandardAugs, train_FixMatchStandardAugs.Method())):
        with pytest.raises(UserError, match="FixMatch is for images, and LA has volumes"):
            drive(script, options, {}, [])


def test_a_policy_is_learned_and_kept(bench):
    """Twice: at the end of each epoch of five steps. That it is resumed to the bit: test_every_method.py."""
    end = bench.train("FixMatchCTA", "--steps_per_epoch", "5", "--min_foreground", "0.0", "--val_every", "12")
    assert end.code == 0, end
    policy = content(bench.run_folder() / "last.pt")["kept"]["policy"]
    assert policy["count"] == 2 and any(rate != 1.0 for lists in policy["rates"].values() for rates in lists for rate in rates)


def test_labels_of_unlabelled_slices_are_never_read(bench):
    """They decide nothing, the batches that are left out included (published: they did)."""
    train = partial(bench.train, "FixMatchCTA", "--max_iterations", "4", data=bench.folder / "ACDC")
    shutil.copytree(bench.data, bench.folder / "ACDC")
    assert train(model="whole").code == 0
    for file in (bench.folder / "ACDC" / "data").rglob("*.h5"):
        if int(file.name[7:10]) in range(3, 7):
            with h5py.File(file, "r+") as h5:
                h5["label"][...] = 99
    end = train(model="harmed", SEMISEG_CACHE=str(bench.folder / "other cache"))
    assert end.code == 0, end
    assert outcome(bench.run_folder("whole")) == outcome(bench.run_folder("harmed"))
