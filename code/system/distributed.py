"""Several processes for one run, as torchrun starts them: who is who, what they exchange, and how the end of one becomes the end of all.

`torchrun --nproc_per_node 2 code/train_X.py ...` starts the script twice; its environment tells each its rank. Only rank 0 claims the
run's folder, writes and prints. What a rank cannot go on from it reports to the store that all share, then closes its connections: the
others' next exchange breaks, they read the report, and leave with the same exit code. With one process nothing here does anything.
"""
from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dataloaders.errors import UserError
from losses.ranks import ProcessLost, total, world

T = TypeVar("T")
LONGEST_WAIT = timedelta(hours=2)
"""For another rank, while it decodes a data set or validates. One that dies is noticed at once, by its connections."""
LONGEST_EXCHANGE = timedelta(minutes=20)
"""For an exchange between GPUs. They are in step, so one that takes longer has lost a process (the first step may compile): NCCL says
nothing at the call, and then ends this process."""
REPORT = "report"


@dataclass(frozen=True)
class Report:
    """How a run ends: what is said, the exit code, the state for status.json, and whether this process is to say it."""

    sentence: str
    code: int
    state: str
    mine: bool = True


class Place:
    """This process among the others; alone until `join`."""

    rank, local_rank = 0, 0
    store: Any = None
    hosts_store = False


def rank() -> int:
    return Place.rank


def first() -> bool:
    """True for the process that claims the folder, writes and prints."""
    return Place.rank == 0


def join() -> None:
    """Meets the other processes where the environment (torchrun's) names any. From then on only rank 0's standard output is seen."""
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if int(os.environ.get("WORLD_SIZE") or 1) == 1 or not all(os.environ.get(name) for name in needed) or dist.is_initialized():
        return
    Place.rank, Place.local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    Place.hosts_store = first() and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
    try:
        Place.store, number, count = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("group", Place.store), rank=number, world_size=count, timeout=LONGEST_WAIT)
        if torch.cuda.is_available():
            limit_exchanges(dist.distributed_c10d._get_default_group())
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(f"Process {Place.rank} did not meet the other {int(os.environ['WORLD_SIZE']) - 1} at {address} ({error}). "
                        "Start the command with torchrun --nproc_per_node N.", 3) from error


def limit_exchanges(group: Any) -> None:
    """Has exchanges between GPUs end after `LONGEST_EXCHANGE`; those of the host may wait on."""
    group._get_backend(torch.device("cuda"))._set_default_timeout(LONGEST_EXCHANGE)


def quietly(action: Callable[[], T]) -> T:
    """What `action` gives; its messages are seen from rank 0 only, also where it ends the program."""
    try:
        with contextlib.nullcontext() if first() else contextlib.redirect_stderr(io.StringIO()):
            return action()
    except SystemExit:
        part()
        raise


def threads() -> int | None:
    """Threads for augmentation: this process's share of its machine's cores; None for one process, which may take them all."""
    return None if world() == 1 else max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or world()), 1)


# Exchanges: every rank must come to the same ones in the same order


def _exchange(function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
    try:
        function(*arguments, **named)
    except RuntimeError as error:
        raise ProcessLost(str(error)) from error


def meet() -> None:
    """Waits until all have come here."""
    if world() > 1:
        total(torch.zeros(1))


def any_of(flag: bool) -> bool:
    """Whether it is true on any rank."""
    return bool(total(torch.tensor([float(flag)]))) if world() > 1 else flag


def sums(values: Sequence[float]) -> list[float]:
    """Each number summed over ranks."""
    return total(torch.tensor(values, dtype=torch.float64)).tolist() if world() > 1 else list(values)


def gather(value: T) -> list[T]:
    """The value of each rank, by rank; what JSON holds."""
    if world() == 1:
        return [value]
    content = torch.frombuffer(bytearray(json.dumps(value, default=float).encode()), dtype=torch.uint8)
    sizes = torch.zeros(world(), dtype=torch.int64)
    sizes[rank()] = len(content)
    sizes = total(sizes)
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded[: len(content)] = content
    parts = [torch.empty_like(padded) for _ in range(world())]
    _exchange(dist.all_gather, parts, padded)
    return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts, sizes.tolist())]


def dealt(things: Sequence[T]) -> list[T]:
    """This rank's share: every world-th."""
    return list(things[rank() :: world()])


def collected(mine: list[T]) -> list[T]:
    """The results of all things that were dealt, in the things' order."""
    if world() == 1:
        return mine
    parts = gather(mine)
    return [parts[k % world()][k // world()] for k in range(sum(map(len, parts)))]


def on_first(action: Callable[[], T]) -> T | None:
    """What `action` gives on rank 0; None on the others, which wait for it."""
    result = action() if first() else None
    meet()
    return result


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives on rank 0, tensors and plain values, handed to all (by torch's safe reader)."""
    if world() == 1:
        return make()
    made, buffer = make() if first() else None, io.BytesIO()
    if first():
        torch.save(made, buffer)
    size = total(torch.tensor([buffer.tell() if first() else 0]))
    content = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8) if first() else torch.empty(int(size), dtype=torch.uint8)
    _exchange(dist.broadcast, content, 0)
    return made if first() else torch.load(io.BytesIO(content.numpy().tobytes()), map_location="cpu", weights_only=True)


def in_turn(action: Callable[[], T]) -> T:
    """`action` on rank 0, then on the first rank of every other machine, then on all others: what one writes the next ones find."""
    if world() == 1:
        return action()
    turn = 0 if first() else 1 if Place.local_rank == 0 else 2
    for now in range(3):
        if now == turn:
            result = action()
        meet()
    return result


# What a step exchanges


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], more: Tensor) -> Tensor:
    """Makes every gradient its mean over ranks, in one exchange; gives the sums over ranks of `more`, a vector.

    A parameter without gradient on this rank counts 0; without one on any rank it stays so.
    """
    absent = [parameter.grad is None for parameter in parameters]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    present = more.new_tensor([float(not none) for none in absent]) if any(absent) else more.new_ones(len(absent))
    whole = total(torch.cat([*(gradient.reshape(-1) for gradient in gradients), present, more]))
    parts = whole.split([*(gradient.numel() for gradient in gradients), len(present), len(more)])
    means = torch._foreach_div(list(parts[:-2]), world())
    torch._foreach_copy_(gradients, [mean.view(gradient.shape) for mean, gradient in zip(means, gradients)])
    for k, none in enumerate(absent):
        if none and bool(parts[-2][k] > 0):
            parameters[k].grad = gradients[k]
    return parts[-1]


@torch.no_grad()
def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Makes floating buffers their mean over ranks, and other buffers those of rank 0."""
    buffers = list({id(buffer): buffer for module in modules for buffer in module.buffers()}.values())
    floats, others = ([b for b in buffers if b.is_floating_point() == kind] for kind in (True, False))
    if floats:
        whole = total(torch.cat([b.reshape(-1) for b in floats])) / world()
        torch._foreach_copy_(floats, [part.view(b.shape) for part, b in zip(whole.split([b.numel() for b in floats]), floats)])
    if others:
        whole = torch.cat([b.reshape(-1).long() for b in others])
        _exchange(dist.broadcast, whole, 0)
        for buffer, part in zip(others, whole.split([b.numel() for b in others])):
            buffer.copy_(part.view(buffer.shape))


# The end


def report(sentence: str, code: int, state: str) -> Report:
    """How the run ends for all: as this process says, unless another has reported before."""
    mine = Report(sentence, code, state)
    if world() == 1:
        return mine
    try:
        found = Place.store.compare_set(REPORT, "", json.dumps(asdict(mine)))
        end = Report(**json.loads(found))
        end = end if end == mine and Place.store.add("reporters", 1) == 1 else Report(end.sentence, end.code, end.state, mine=False)
    except RuntimeError:  # the store has died with the process that hosted it
        end = mine
    return end


def verdict() -> Report:
    """How the run ends where an exchange broke: by the report of the process that left, or without one, since it was killed."""
    with contextlib.suppress(RuntimeError):
        Place.store.wait([REPORT], timedelta(seconds=5))
    return report("Another process of this run has died without a word (killed, or its machine lost). Run the same command again: "
                  "it goes on from the last checkpoint.", 75, "interrupted")


def part() -> None:
    """The orderly end: waits for the others, so that nobody's leaving breaks another's last exchange, and closes the connections."""
    if world() > 1:
        try:
            meet()
        except ProcessLost:
            if not first():  # rank 0 has finished all the same; another may have left because rank 0 could not
                raise
        dist.destroy_process_group()


def leave(code: int) -> None:
    """The end after a report: closes the connections, so that the others learn of it, and ends this process at once."""
    if world() == 1:
        return
    count = world()
    closing = threading.Thread(target=dist.destroy_process_group, daemon=True)  # a GPU's exchange under way may never end
    closing.start()
    closing.join(5)
    with contextlib.suppress(RuntimeError):
        Place.store.add("left", 1)
        until = time.monotonic() + 10
        while Place.hosts_store and Place.store.add("left", 0) < count and time.monotonic() < until:
            time.sleep(0.02)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
