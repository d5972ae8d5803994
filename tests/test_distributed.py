"""Several processes for one run: the same training as one, equal ranks at the end, and no rank left waiting when another ends."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import Bench, End, check_equal, free_port, keep_states, server, start_ranks, train_ranks

ROOT, TESTS = Path(__file__).parents[1], Path(__file__).parent
QUICK = ("--max_iterations", "2", "--val_every", "2", "--save_every", "2", "--log_every", "1")


def losses_of(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["total"] for line in lines if line["kind"] == "train"]


FOLLOWING = ("--dropout", "0", "--sync_bn", "--max_iterations", "20", "--log_every", "1", "--val_every", "20", "--batch_size", "5",
             "--base_lr", "3e-4")
"""At a higher rate rounding alone grows past 1e-4 within 20 steps, because the coarsest map of one row has four positions."""


def test_two_ranks_follow_one_process(bench: Bench) -> None:
    """Six labelled slices in batches of 5 and 1: shares of 3 and 2 rows, and of 1 and none."""
    one = bench.train("Supervised", *FOLLOWING, model="one")
    ends = train_ranks(bench, "Supervised", *FOLLOWING, model="two", before=keep_states, KEPT=str(bench.folder))
    assert one.code == 0, one
    check_equal(bench.folder, ends)
    alone, shared = bench.run_folder("one"), bench.run_folder("two")
    expected, found = torch.tensor(losses_of(alone)), torch.tensor(losses_of(shared))
    assert len(expected) == 20 and (expected - found).abs().max() < 1e-4, (expected - found).abs()
    weights = [torch.load(folder / "last.pt", weights_only=True)["networks"]["network"]["state"] for folder in (alone, shared)]
    for name, weight in weights[0].items():
        assert torch.allclose(weight.double(), weights[1][name].double(), rtol=1e-3, atol=1e-3), name
    assert json.loads((shared / "config.json").read_text())["processes"] == 2


def small_network() -> torch.nn.Module:
    """Convolution, batch norm, a layer without gradient; in double precision."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 3, padding=1)]
    return torch.nn.Sequential(*layers, torch.nn.BatchNorm2d(3)).double()


SHARES = ((range(3), range(3, 5)), (range(1), range(0)), (range(2), range(2, 4)))
"""Rows of each rank in three steps."""


def several_terms(network: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, equal: bool, labels_only: bool) -> torch.Tensor:
    """Every kind of sum over the batch: the forms of Dice, counted pixels, a masked mean; for equal shares means, and a ratio of means.

    labels_only: those that ignored labels make 0, as they stand where a rank has no rows of its own.
    """
    from losses import batch_mean, batch_sums, dice_loss, softmax_dice, supervised_loss
    logits = network(x)
    if labels_only:
        return supervised_loss(logits, y) + supervised_loss(logits, y, "linear") + dice_loss(logits, y, foreground_only=True)
    sure = logits.detach().amax(1) > 0.3
    masked, count = batch_sums((logits.square().sum(1) * sure).sum(), sure.sum())
    mean = logits.sigmoid().mean() + batch_mean(logits.square().mean()) / (1 + batch_mean(logits.exp().mean()))
    other = softmax_dice(logits, 2 * logits) + supervised_loss(logits, y, "linear") + dice_loss(logits, y, foreground_only=True)
    return supervised_loss(logits, y) + masked / count.clamp(min=1) + (mean if equal else 0) + other


def trained(rank: int = 0, shares: Any = None) -> dict[str, torch.Tensor]:
    """State of the small network after the steps, with all rows of a step or this rank's."""
    from networks.sync_norm import count_rows
    from system import distributed
    network, (images, labels) = small_network(), (torch.randn(5, 1, 6, 5).double(), torch.randint(-1, 3, (5, 6, 5)) % 256)
    if shares is not None:
        from networks.sync_norm import synchronise
        synchronise(network)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    for step in SHARES:
        rows = list(step[rank]) if shares else sorted(set(step[0]) | set(step[1]))
        count_rows(network, bool(rows))
        optimizer.zero_grad()
        truth = labels[rows] if rows else torch.full_like(labels[:1], 255)
        several_terms(network, images[rows or [0]], truth, len(step[0]) == len(step[1]), not step[1]).backward()
        if shares:
            distributed.average_gradients(list(network.parameters()), torch.zeros(1).double())
        optimizer.step()
    if shares:
        distributed.average_buffers([network])
    return {**network.state_dict(), "parameters": torch.cat([p.detach().flatten() for p in network.parameters()])}


def train_share(rank: int, port: str, folder: Path) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from system import distributed
    distributed.join()
    assert distributed.gather({"rank": rank, "none": None}) == [{"rank": 0, "none": None}, {"rank": 1, "none": None}]
    assert distributed.collected([10 * k for k in distributed.dealt(range(5))]) == [0, 10, 20, 30, 40]
    torch.save(trained(rank, SHARES), folder / f"share{rank}.pt")
    distributed.part()


def test_shares_have_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    """To the last digits of double precision; equal, unequal and empty shares, batch norm and every sum over the batch."""
    port = free_port()
    ranks = [server().Process(target=train_share, args=(rank, port, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0
    expected = trained()
    for number in range(2):
        found = torch.load(tmp_path / f"share{number}.pt", weights_only=True)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert torch.allclose(found[name].double(), value.double(), rtol=1e-9, atol=1e-11), name


SPECIAL = {
    "Supervised": (3, ("--augment", "strong")), "awkward_stages": (2, ("--pretraining", "2")), "awkward_critic": (2, ()),
}
"""(processes, options): three, of which one has no validation case; stages; two players."""


@pytest.mark.parametrize("method", SPECIAL)
def test_equal_ranks_of_more_processes_of_stages_and_of_players(bench: Bench, method: str) -> None:
    """Every script as it is: test_every_method.py."""
    world, words = SPECIAL[method]
    ends = train_ranks(bench, method, *QUICK, *words, "--batch_size", "8", "--labeled_bs", "4", world=world, before=keep_states,
                       KEPT=str(bench.folder))
    check_equal(bench.folder, ends)


def said(ends: list[End], text: str) -> int:
    return sum((end.out + end.err).count(text) for end in ends)


LONG = ("--max_iterations", "40", "--val_every", "40", "--save_every", "40", "--log_every", "1")


def test_a_signal_to_one_rank_stops_both_and_one_process_goes_on(bench: Bench) -> None:
    """SIGTERM to the rank that writes nothing: both save at the same step and leave with 75; then another number of processes."""
    ranks = start_ranks(bench, "MeanTeacher", *LONG)
    ranks[0].said("Folder:")
    log = bench.run_folder() / "metrics.jsonl"
    while not log.exists() or not log.read_text():
        assert ranks[0].alive()
        time.sleep(0.02)
    os.kill(ranks[1].process.pid, signal.SIGTERM)
    ends = [rank.end() for rank in ranks]
    assert [end.code for end in ends] == [75, 75] and said(ends, "the state is saved") == 1, ends
    status = json.loads((bench.run_folder() / "status.json").read_text())
    saved = torch.load(bench.run_folder() / "last.pt", weights_only=True)
    assert status["state"] == "interrupted" and 0 < status["step"] == saved["step"] < 40
    end = bench.train("MeanTeacher", *LONG)
    assert end.code == 0 and f"resumed at step {saved['step']}" in end.out and "Not bitwise" in end.out, end
    config = json.loads((bench.run_folder() / "config.json").read_text())
    assert config["processes"] == 1 and config["processes_before"] == [[2, saved["step"]]]
    assert any("2 until about step" in remark for remark in config["remarks"])
    ends = train_ranks(bench, "MeanTeacher", *LONG)
    assert [end.code for end in ends] == [0, 0] and said(ends, "This run is finished") == 1, ends


def test_a_loss_that_is_not_finite_on_one_rank(bench: Bench) -> None:
    ends = train_ranks(bench, "EntMin", faults={1: "nan@step:4"})
    assert [end.code for end in ends] == [3, 3] and said(ends, "step 4: the loss is not finite (total = nan)") == 1, ends
    assert said(ends, "Cases of the batch: patient") == 1 and said(ends, "Traceback") == 0
    status = json.loads((bench.run_folder() / "status.json").read_text())
    assert status["state"] == "failed" and "not finite" in status["reason"]
    assert torch.load(bench.run_folder() / "last.pt", weights_only=True)["step"] == 3


REFUSED = {
    "an option that does not exist": (("--lerning_rate", "1"), "There is no option --lerning_rate"),
    "a value of a wrong kind": (("--max_iterations", "many"), "many"),
    "rows that do not divide": (("--batch_size", "5"), "do not divide by 2 processes"),
    "a budget that is too large": (("--labeled_num", "99"), "99"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_said_once(bench: Bench, what: str) -> None:
    words, sentence = REFUSED[what]
    ends = train_ranks(bench, "MeanTeacher", *words)
    assert [end.code for end in ends] == [2, 2] and said(ends, "Traceback") == 0, ends
    assert [sentence in end.out + end.err for end in ends].count(True) == 1, ends


def test_a_folder_in_use_and_a_rank_without_data(bench: Bench, tiny_acdc: Path) -> None:
    """What only rank 0 meets, and what only rank 1 meets, ends both alike."""
    holder = bench.start("Supervised", *LONG)
    holder.said("Folder:")
    ends = train_ranks(bench, "Supervised", *LONG)
    os.kill(holder.process.pid, signal.SIGKILL)
    holder.end()
    assert [end.code for end in ends] == [2, 2] and said(ends, "in use by process") == 1, ends
    ends = train_ranks(bench, "Supervised", model="blind", before=blind_rank_1)
    assert [end.code for end in ends] == [2, 2] and said(ends, "cannot be read on this machine") == 1, ends
    assert json.loads((bench.run_folder("blind") / "status.json").read_text())["reason"].startswith("cannot be read on this machine")


def blind_rank_1() -> None:
    """Has rank 1 fail where it reads its data."""
    from dataloaders.errors import UserError
    from engine import feeding

    def fail(*_: Any, **__: Any) -> None:
        raise UserError("cannot be read on this machine")

    if os.environ["RANK"] == "1":
        feeding.build_store = fail  # type: ignore[assignment]


def environment(bench: Bench, **more: str) -> dict[str, str]:
    """Of a real command: the test's own folders, one thread."""
    folders = {f"SEMISEG_{name}": str(bench.folder / name.lower()) for name in ("MODEL", "RESULTS", "CACHE")}
    return {**os.environ, **folders, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def wait_for_steps(process: subprocess.Popen[str], bench: Bench) -> None:
    while not any(path.stat().st_size for path in (bench.folder / "model").rglob("metrics.jsonl")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


SHORT_RUN = ("code/train_Supervised.py", "--patch_size", "32", "32", "--batch_size", "4", "--labeled_num", "2", "--device", "cpu",
             "--exp", "run", "--max_iterations", "24", "--val_every", "24", "--save_every", "4", "--log_every", "1")


def test_torchrun_ends_when_a_rank_is_killed_and_goes_on(bench: Bench) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.Popen([*torchrun, *SHORT_RUN, "--root_path", str(bench.data)], cwd=ROOT, env=environment(bench), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_for_steps(process, bench)
    status = bench.run_folder() / "status.json"
    writer = json.loads(status.read_text())["pid"]
    ranks = {int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()}
    assert len(ranks) == 2 and writer in ranks
    os.kill(next(iter(ranks - {writer})), signal.SIGKILL)
    began = time.monotonic()
    out, _ = process.communicate(timeout=100)
    assert process.returncode and time.monotonic() - began < 60, out
    ended = json.loads(status.read_text())
    assert ended["state"] == "interrupted", out  # whether rank 0 learns of it by the connection, or first by torchrun's signal
    bench.narrow = False
    ends = train_ranks(bench, "Supervised", *SHORT_RUN[1:], short=())  # as torchrun would, without a new interpreter a rank
    assert [end.code for end in ends] == [0, 0] and "resumed at step" in ends[0].out, ends
    assert json.loads(status.read_text())["state"] == "done"


def test_the_batch_script_of_the_docs(bench: Bench) -> None:
    """USR1 to the shell, as SLURM sends it: the run saves and leaves, the job is put back, and the same command goes on."""
    script, stub = bench.folder / "run.sbatch", bench.folder / "bin" / "scontrol"
    script.write_text((ROOT / "docs" / "slurm.md").read_text().split("```bash\n")[1].split("```")[0])
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {bench.folder}/requeued\n')
    stub.chmod(0o755)
    (stub.parent / "python").symlink_to(sys.executable)
    folder = bench.folder / "fake"
    command = ["bash", str(script), sys.executable, str(TESTS / "fake_run.py"), "train", str(folder), "wait,0,2"]
    folder.mkdir()
    setting = environment(bench, PATH=f"{stub.parent}:{os.environ['PATH']}", SLURM_JOB_ID="77")
    process = subprocess.Popen(command, cwd=ROOT, env=setting, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not (folder / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    out, _ = process.communicate(timeout=100)
    assert (bench.folder / "requeued").read_text() == "requeue 77\n" and "saved" in out, out
    again = subprocess.run(command, cwd=ROOT, env=setting, text=True, capture_output=True, timeout=100)
    assert again.returncode == 0 and "attempt 2" in again.stdout, again
    refused = subprocess.run(command, cwd=ROOT, env=setting, text=True, capture_output=True, timeout=100)
    assert refused.returncode == 2 and (bench.folder / "requeued").read_text() == "requeue 77\n", refused
