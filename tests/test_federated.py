"""FSSL-PLD: sites, rounds, the mean of the server, and denoised pseudo-labels."""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import train_FSSLPLD
from harness import Bench
from parity_tools import Stub, golden_batch

from dataloaders.batches.sampling import Turns, UnlabeledOnly
from dataloaders.description import Case, Item
from dataloaders.errors import UserError
from dataloaders.splits.sites import by_centre, by_draw, groups_of
from networks import weighted_mean

OPTIONS = dict(sites=4, labeled_sites=2, local_steps=3, resting_rounds=2)


def items_of(names: list[str], slices: int = 2) -> list[Item]:
    """So many images of each patient."""
    return [Item(f"{name}_{k}", Case(name, Path(name), None, name), Path(name), None) for name in names for k in range(slices)]


def test_patients_are_dealt_whole_and_the_draw_follows_from_names() -> None:
    labeled, unlabeled = items_of([f"a{k}" for k in range(5)]), items_of([f"b{k}" for k in range(9)])
    sites = by_draw(labeled, unlabeled, 4, 2, seed=0)
    assert [len(groups_of(site.labeled)) for site in sites] == [3, 2, 0, 0]
    assert [len(groups_of(site.unlabeled)) for site in sites] == [0, 0, 5, 4]
    assert all(count == 2 for site in sites for count in Counter(item.case.group for item in (*site.labeled, *site.unlabeled)).values())
    again = by_draw(labeled[::-1], unlabeled[::-1], 4, 2, seed=0)
    other = by_draw(labeled, unlabeled, 4, 2, seed=1)
    assert [groups_of(site.unlabeled) for site in sites] == [groups_of(site.unlabeled) for site in again]
    assert [groups_of(site.unlabeled) for site in sites] != [groups_of(site.unlabeled) for site in other]
    for number, with_labels, reason in ((1, 1, "at least 2 sites"), (3, 3, "fewer with labels"), (9, 6, "5 labelled patients")):
        with pytest.raises(UserError, match=reason):
            by_draw(labeled, unlabeled, number, with_labels, seed=0)


def test_centres_are_kept_whole_and_those_with_labels_stand_first() -> None:
    """Ten images of B, four of A and two of C on two sites: B alone, A and C together."""
    unlabeled = items_of([*(f"X_B_{k}" for k in range(5)), *(f"X_A_{k}" for k in range(2))])
    sites = by_centre(items_of(["X_C_0"]), unlabeled, 2, "^X_([A-Z])_")
    assert [site.centres for site in sites] == [["A", "C"], ["B"]] and [len(site.labeled) for site in sites] == [2, 0]
    assert "2 labelled and 4 unlabelled images of 3 patients or images (A, C)" in sites[0].said
    for number, pattern, reason in ((4, "^X_([A-Z])_", "3 centres"), (2, "^Y_(.)", "tell no centre"), (2, "X_", "with a group"),
                                    (2, "(", "with a group")):
        with pytest.raises(UserError, match=reason):
            by_centre(items_of(["X_C_0"]), unlabeled, number, pattern)


def test_sites_without_labels_rest_at_first() -> None:
    turns, ends = train_FSSLPLD.rounds_of(2, 4, train_FSSLPLD.Method(max_iterations=26, **OPTIONS))
    assert turns[:12] == [0, 0, 0, 1, 1, 1] * 2 and turns[12:] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [0] * 2
    assert ends == {5: [0, 1], 11: [0, 1], 23: [0, 1, 2, 3], 25: [0]}


def test_each_part_has_batches_of_its_own() -> None:
    """Three labelled images, five unlabelled ones, and two and four of a part with both."""
    turns = [0, 0, 1, 2, 1, 0, 2, 1]
    sampler = Turns([(3, 0), (0, 5), (2, 4)], turns, batch_size=2, labeled_bs=1, seed=3)
    found = [sampler.at(t) for t in range(len(turns))]
    assert [(len(labeled), len(others)) for labeled, others in found] == [(2, 0), (1, 0), (0, 2), (1, 1), (0, 2), (2, 0), (1, 1), (0, 2)]
    assert sorted(np.concatenate([found[0][0], found[1][0]])) == [0, 1, 2]
    assert all(3 <= found[t][0] < 5 and 5 <= found[t][1] < 9 for t in (3, 6))
    assert set(np.concatenate([found[t][1] for t in (2, 4, 7)])) == set(range(5)), "an epoch of five in three batches of two"
    stream = np.concatenate([UnlabeledOnly(5, 2, 3).at(t)[1] for t in range(5)])
    assert sorted(stream[:5]) == sorted(stream[5:]) == list(range(5))
    one = UnlabeledOnly(2, 5, 0).at(0)[1]
    assert len(one) == 5 and sorted(one[:2]) == sorted(one[2:4]) == [0, 1]


def test_the_server_is_the_weighted_mean() -> None:
    networks = [torch.nn.BatchNorm1d(1) for _ in range(3)]
    for network, value, count in zip(networks, (0.0, 3.0, 9.0), (0, 3, 10)):
        torch.nn.init.constant_(network.weight, value)
        network.running_mean.fill_(value)
        network.num_batches_tracked.fill_(count)
    weighted_mean(networks[0], networks[1:], [1, 2])
    assert networks[0].weight.item() == networks[0].running_mean.item() == 7 and networks[0].num_batches_tracked == 7


def test_pseudo_labels_count_where_all_agree_and_are_sure() -> None:
    """Four pixels: both sure of class 1; the networks differ; both unsure; both sure of class 0."""
    first = torch.tensor([[-4.0, 4, 0.1, 4], [4.0, -8, 0, -4]]).view(1, 2, 1, 4)
    second = torch.tensor([[-4.0, -3, 0.1, 4], [4.0, 3, 0, -4]]).view(1, 2, 1, 4)
    voters, images = [Stub(first), Stub(second)], torch.zeros(1, 1, 1, 4)
    options = train_FSSLPLD.Method(confidence=0.5)
    assert train_FSSLPLD.denoised(voters, images, options).tolist() == [[[1, 255, 0, 0]]]
    options.confidence = 0.9
    assert train_FSSLPLD.denoised(voters, images, options).tolist() == [[[1, 255, 255, 0]]]
    options.confidence, options.agreement = 0.5, 0.5
    assert train_FSSLPLD.denoised(voters, images, options).tolist() == [[[1, 0, 0, 0]]]


def test_a_site_learns_from_what_it_has() -> None:
    torch.manual_seed(0)
    labels, options = torch.tensor([[[0, 1]]]), train_FSSLPLD.Method(pseudo_weight=0.5)
    logits, nothing = torch.randn(2, 2, 1, 2), torch.full((1, 1, 2), 255)
    labeled = train_FSSLPLD.losses(Stub(logits[:1]), golden_batch(labels, 0), None, options)
    assert labeled["total"] == labeled["supervised"] and "pseudo" not in labeled
    both = train_FSSLPLD.losses(Stub(logits), golden_batch(labels, 1), labels, options)
    assert both["total"] == both["supervised"] + 0.5 * both["pseudo"] and both["supervised"] == labeled["supervised"]
    alone = train_FSSLPLD.losses(Stub(logits[1:]), golden_batch(labels[:0], 1), labels, options)
    assert alone["total"] == 0.5 * both["pseudo"]
    assert train_FSSLPLD.losses(Stub(logits[1:]), golden_batch(labels[:0], 1), nothing, options)["total"] == 0


def test_the_server_of_a_run_is_the_mean_of_its_sites(bench: Bench) -> None:
    """Both sites train in the second round; the site without labels rests in the first."""
    end = bench.train("FSSLPLD", "--max_iterations", "3", "--sites", "2", "--labeled_sites", "1", "--local_steps", "1",
                      "--resting_rounds", "1", "--confidence", "0.3", "--log_every", "1")
    assert end.code == 0 and "Site 1: 6 labelled and 0 unlabelled images of 2 patients" in end.out, end.out + end.err
    assert "dealt to 2 parts in turns" in end.out
    last = torch.load(bench.run_folder() / "last.pt", weights_only=True)
    sites = [last["networks"][name]["state"]["out.weight"] for name in ("site1", "site2")]
    torch.testing.assert_close(last["kept"]["server"]["out.weight"], torch.stack(sites).mean(0))
    lines = [json.loads(line) for line in (bench.run_folder() / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "pseudo" in line] == [3]
