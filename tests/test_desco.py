"""DeSCO: what its page promises beside the golden files."""
from functools import partial
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
import train_DeSCO
from made_results import make_results
from parity_tools import Stub, drive, golden_batch, gradient

from dataloaders.annotation import annotated, largest_slices, published_slices
from dataloaders.batches.store import label_of
from dataloaders.description import Item
from dataloaders.errors import UserError
from dataloaders.propagation import copied, propagated
from engine import parse, pseudo_masks
from losses import pixel_weighted_cross_entropy, pixel_weighted_dice
from metrics import dice
from reporting.commands import command_for
from reporting.records import read


def leaning_cone():
    """Image (1, 40, 40, 16) and label of a cone that leans: from slice to slice it moves and shrinks."""
    x, y, z = np.mgrid[:40, :40, :16]
    label = ((x - 14 - z) ** 2 + (y - 20 - z / 2) ** 2 < (13 - 0.8 * z) ** 2) & (z > 1) & (z < 14)
    noise = np.random.default_rng(0).normal(0, 0.05, label.shape)
    return (label + noise).astype(np.float32)[None], label.astype(np.uint8)


def test_a_carried_label_follows_the_object_and_ends_where_it_ends():
    image, truth = leaning_cone()
    slices = largest_slices(truth)
    known = annotated(truth, slices)
    ours, theirs = (propagated(image, known, slices, carry) for carry in (None, copied))
    for k in ("label1", "label2"):
        assert dice(ours[k], truth) > 0.9 and dice(ours[k], truth) > dice(theirs[k], truth) + 0.05
    for k, (axis, index) in enumerate(slices, 1):
        for found in (ours, theirs):
            for across, place in slices:
                assert np.array_equal(found[f"label{k}"].take(place, across), truth.take(place, across))
            away = found[f"distance{k}"]
            assert set(away.take(index, axis).ravel()) == {0} and away.max() == max(index, truth.shape[axis] - 1 - index)
    assert not ours["label1"][..., :2].any() and not ours["label1"][..., 14:].any()


def test_two_runs_carry_alike_and_classes_stay_apart():
    image, truth = leaning_cone()
    truth = truth * np.where(np.arange(40) < 22, 1, 2).astype(np.uint8)[:, None, None]
    slices = largest_slices(truth)
    first, second = (propagated(image, annotated(truth, slices), slices) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) and first[name].dtype == np.uint8 for name in first)
    assert set(np.unique(first["label1"])) == {0, 1, 2}


def test_slices_of_largest_cross_section_and_published_ones():
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:5, 2, 3] = label[2, 1:6, 3] = 1
    assert largest_slices(label) == ((2, 3), (1, 2)) and largest_slices(0 * label) == ((2, 4), (1, 3))
    assert published_slices(label, {2: 5, 1: None}, "a") == ((2, 5), (1, 3))
    with pytest.raises(UserError, match="no slice 43 of axis 2, which has 8"):
        published_slices(label, {2: 43, 1: None}, "a")


def test_nothing_else_of_an_annotated_volume_is_known():
    label = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    source = SimpleNamespace(label=lambda of: label)
    known = label_of(source, Item("a", None, None, None, annotated=((2, 3), (1, 0))))
    assert np.array_equal(known[:, :, 3], label[:, :, 3]) and np.array_equal(known[:, 0], label[:, 0])
    assert (known != 255).sum() == 4 * 5 + 4 * 6 - 4
    assert label_of(source, Item("a", None, None, None)) is label


def test_two_slices_are_annotated_of_volumes_alone(tmp_path):
    ask = partial(parse, train_DeSCO.Method, train_DeSCO.PRESETS)
    words = ["--root_path", str(tmp_path), "--dataset"]
    assert ask([*words, "LA"]).annotation == ask([*words, "Phantom3D"]).annotation == "orthogonal"
    assert ask([*words, "ACDC"]).annotation == "full"
    with pytest.raises(UserError, match="two slices are annotated of volumes, and ACDC has images"):
        ask([*words, "ACDC", "--annotation", "orthogonal"])
    with pytest.raises(UserError, match="nobody has published slices of Phantom3D"):
        ask([*words, "Phantom3D", "--annotated_slices", "published"])
    assert ask([*words, "LA", "--annotated_slices", "published"]).annotated_slices == "published"


def test_a_pixel_without_weight_has_no_say():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    weights = (torch.rand(2, 4, 5) > 0.5).float()
    other = torch.where(weights.bool(), labels, (labels + 1) % 3)
    for loss in (pixel_weighted_cross_entropy, pixel_weighted_dice):
        torch.testing.assert_close(loss(logits, labels, weights), loss(logits, other, weights))
        torch.testing.assert_close(loss(logits, labels, weights), loss(logits, labels.masked_fill(weights == 0, 255), torch.ones(2, 4, 5)))
    found = pixel_weighted_cross_entropy(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 0.0]]]))
    assert found.item() == pytest.approx(np.log(2), rel=1e-4)


def batch_of(shape=(2, 3, 4)):
    torch.manual_seed(1)
    batch = golden_batch(torch.full((2, *shape), 255), 2)
    for k in (1, 2):
        batch.maps |= {f"label{k}": torch.randint(0, 2, (4, *shape)).float(), f"distance{k}": torch.randint(0, 4, (4, *shape)).float()}
    return batch


def terms_of(first, second, weight=0.1, threshold=10.0, batch=None, **values):
    options = train_DeSCO.Method(noise=0.0, further_passes=2, **values)
    said = [x[1:] for x in (first, second)]
    twice = [torch.cat([x, x]) for x in said]
    stubs = Stub(first, said[0], twice[0]), Stub(said[1], twice[1], second)
    return train_DeSCO.losses(*stubs, batch or batch_of(), 0.5, weight, threshold, options)


def test_each_network_learns_its_own_label_and_nobody_else_does():
    first, second = (torch.randn(2, 2, 2, 3, 4, requires_grad=True) for _ in range(2))
    terms = terms_of(first, second)
    for k, (own, other) in ((1, (first, second)), (2, (second, first))):
        for name in ("supervised", "learned"):
            found = gradient(terms[f"{name}_{k}"], own, other)
            assert found[0].any() and not found[1].any(), name
        assert not gradient(terms[f"supervised_{k}"], own)[0][1:].any() and not gradient(terms[f"learned_{k}"], own)[0][:1].any()
    changed = batch_of()
    changed.maps["label2"][0], changed.maps["label1"][1] = 1 - changed.maps["label2"][0], 1 - changed.maps["label1"][1]
    assert terms_of(first, second, batch=changed)["total"] == terms["total"], "a half of the batch is the other network's"


def test_without_a_weight_labels_alone_count_and_nobody_sure_costs_one():
    first, second = (torch.randn(2, 2, 2, 3, 4) for _ in range(2))
    terms = terms_of(first, second, weight=0.0)
    assert terms["total"] == terms["supervised_1"] + terms["supervised_2"]
    terms = terms_of(first, second, threshold=0.0)
    assert terms["learned_1"] == terms["learned_2"] == 1 and not terms["mask"].any()


def test_labels_count_less_and_less():
    options = train_DeSCO.Method()
    found = [train_DeSCO.decay_at(step, options) for step in (0, 999, 1000, 2000, 5999, 10**6)]
    assert found[:2] == [0.95, 0.95] and found == sorted(found, reverse=True) and found[-1] == 0


def test_images_and_whole_annotations_are_refused():
    for data, values, words in (("ACDC", {"annotation": "orthogonal"}, "it takes volumes, and ACDC has images"),
                                ("LA", {}, "needs --annotation orthogonal"),
                                ("LA", {"annotation": "orthogonal", "further_passes": 3}, "an even number")):
        with pytest.raises(UserError, match=words):
            drive(train_DeSCO, train_DeSCO.Method(**values), {}, [], data=data)


def test_maps_that_are_there_are_not_computed_again(tmp_path):
    """Whoever is killed while they are, loses those that are under way; other code makes all anew."""
    source = SimpleNamespace(image=lambda of: of.name, label=lambda of: None)
    session = SimpleNamespace(folder=tmp_path, config={"code": "a"}, source=source)
    items = [Item(name, None, None, None) for name in ("one", "two", "a/b")]
    made = []

    def make(item, image, label):
        assert image == item.name and label is None
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(item.name)
        return {"twice": np.full((2, 2), 2 * len(item.name), np.uint8)}

    def compute():
        return pseudo_masks.compute(session, "lengths", items, ["twice"], make, SimpleNamespace(say=lambda text: None))

    with mock.patch.object(pseudo_masks, "MOST_THREADS", 1):
        with pytest.raises(KeyboardInterrupt):
            compute()
        before, made = made, []
        found = compute()
        assert before == ["one", "two"] and made == ["a/b"] and compute() == found and len(made) == 1
        assert [int(np.load(item.maps["twice"])[0, 0]) for item in found] == [6, 6, 6]
        session.config["code"], made = "b", [1, 2, 3]
        compute()
        assert made == [1, 2, 3, "one", "two", "a/b"]


def test_reports_keep_two_slices_apart_from_whole_volumes_and_ask_for_a_baseline_of_the_same(tmp_path):
    make_results(tmp_path / "whole", ("UAMT",), ("4",), None, (0,), data_set="Phantom3D", upper=False)
    make_results(tmp_path / "slices", ("UAMT",), ("4",), None, (0,), data_set="Phantom3D", upper=False, annotation="orthogonal")
    records, skipped = read([tmp_path])
    assert not skipped and {record.protocol for record in records} == {"official", "official, orthogonal annotation"}
    (of_slices,) = [record for record in records if record.quoted and "orthogonal" in record.protocol]
    asked = command_for(of_slices, "Supervised", "4", [(-1, -1, 0)])
    assert asked.count("--annotation orthogonal") == 1 and asked.startswith("python code/train_Supervised.py --dataset Phantom3D")
