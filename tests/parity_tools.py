"""What parity tests are made of: golden arrays, a comparer with tolerances, stub networks, and training scripts driven with them."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from dataloaders.batches.loader import Batch
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from engine.stage import Stage
from networks.compiling import compiled

Computed = dict[str, Any]
"""Name of a golden array -> what the project computes; a masked array where some elements are not ours."""

SINGLE, DOUBLE, GRADIENT = (1e-5, 1e-7), (1e-9, 0.0), 1e-5
"""(relative, absolute) of f32 and of f64 values; of gradients the share of the largest element."""
LARGEST_GRADIENT_ERROR = 1e-9


class Golden:
    """The arrays of one file. Lower-case integers become int64 tensors, floats keep their type."""

    def __init__(self, path: Path):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def endings(self, start: str) -> list[str]:
        """What follows `start` in the names that begin with it, sorted."""
        return sorted(name[len(start) :] for name in self.arrays if name.startswith(start))

    def expected(self) -> list[str]:
        return sorted(name for name in self.arrays if name.startswith(("out_", "grad_")))

    def tensor(self, name: str) -> Tensor:
        array = self[name]
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "ui" else array.copy())

    def leaf(self, name: str) -> Tensor:
        """A tensor that takes a gradient."""
        return self.tensor(name).requires_grad_()


@dataclass(frozen=True)
class Parity:
    """What is compared of one file.

    `later`: patterns of the arrays of methods that are not built. `tolerances`: pattern -> (relative, absolute), or one number, the
    share of the largest element (always for gradients); the first that fits holds, else the default of the array's type.
    """

    compute: Callable[[Golden], Computed]
    later: tuple[str, ...] = ()
    tolerances: Mapping[str, Any] = field(default_factory=dict)


def gradient(value: Tensor, *of: Tensor) -> list[Tensor]:
    """d value / d each, zeros where it does not depend on it; the graph stays."""
    found = torch.autograd.grad(value, of, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, of)]


def difference(name: str, got: Any, want: np.ndarray, tolerances: Mapping[str, Any]) -> str:
    """A sentence about how `got` differs from `want`; empty where it does not."""
    got = got.detach().numpy() if isinstance(got, Tensor) else np.ma.asanyarray(got)
    if got.shape != want.shape:
        return f"{name}: shape {got.shape}, expected {want.shape}"
    chosen = next((value for pattern, value in tolerances.items() if fnmatchcase(name, pattern)), None)
    default = SINGLE if want.dtype == np.float32 else DOUBLE
    ours = ~np.ma.getmaskarray(got)
    got, want = np.asarray(got)[ours], want[ours]
    if want.dtype.kind in "uibU":
        wrong = int((got != want).sum())
        return f"{name}: {wrong} of {want.size} elements differ (none may)" if wrong else ""
    got, want = got.astype(float), want.astype(float)
    if (np.isnan(got) != np.isnan(want)).any():
        return f"{name}: NaN at other places than expected"
    got, want = got[~np.isnan(want)], want[~np.isnan(want)]
    if name.startswith("grad_") or isinstance(chosen, float):
        allowed = (chosen or GRADIENT) * np.abs(want).max(initial=0.0) + LARGEST_GRADIENT_ERROR
    else:
        relative, absolute = chosen or default
        allowed = absolute + relative * np.abs(want)
    excess = np.abs(got - want) - allowed
    if not (excess > 0).any():
        return ""
    worst = int(excess.argmax())
    return f"{name}: {(excess > 0).sum()} of {excess.size} elements differ, the worst is {got[worst]!r}, expected {want[worst]!r}"


def differences(parity: Parity, golden: Golden, computed: Computed) -> tuple[list[str], list[str]]:
    """(what is wrong, a sentence each; what was not compared, because it is not built)."""
    wrong, left_out = [], []
    for name in golden.expected():
        if name in computed:
            wrong.append(difference(name, computed[name], golden[name], parity.tolerances))
            mask = np.ma.getmaskarray(computed[name]) if np.ma.isMaskedArray(computed[name]) else np.zeros(1)
            left_out += [f"{name}{list(map(int, place))}" for place in np.argwhere(mask)]
        elif any(fnmatchcase(name, pattern) for pattern in parity.later):
            left_out.append(name)
        else:
            wrong.append(f"{name}: nobody computes it")
    wrong += [f"{name}: computed, but not in the file" for name in sorted(set(computed) - set(golden.expected()))]
    return [sentence for sentence in wrong if sentence], left_out


# Scripts with stub networks


class Stub(nn.Module):
    """A network that returns golden outputs in call order, from the start again after the last. `seen` keeps its inputs."""

    def __init__(self, *outputs: Any):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.outputs, self.seen = outputs, []

    def forward(self, images: Tensor) -> Any:
        self.seen.append(images)
        return self.outputs[(len(self.seen) - 1) % len(self.outputs)]


class TappedStub(nn.Module):
    """A network whose `encode`, `decode` and `head` give golden features and logits.

    `parts`: (deepest features, last decoder features, logits) for labelled images (all 0 in `golden_batch`) and unlabelled ones (all 1).
    """

    def __init__(self, labeled: tuple[Any, Any, Tensor], unlabeled: tuple[Any, Any, Tensor]):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.parts = (labeled, unlabeled)
        self.part = labeled

    def encode(self, images: Tensor) -> list[Any]:
        assert images.unique().numel() == 1, "labelled and unlabelled images pass apart"
        self.part = self.parts[int(images.unique())]
        return [self.part[0]]

    def decode(self, maps: list[Any]) -> Any:
        return self.part[1]

    def head(self, features: Any) -> Tensor:
        return self.part[2]

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.decode(self.encode(images)))


def golden_batch(labels: Tensor, n_unlabeled: int, step: int = 0) -> Batch:
    """Labelled rows of zeros with these labels, then unlabelled rows of ones."""
    rows = [torch.zeros(len(labels), 1, *labels.shape[1:]), torch.ones(n_unlabeled, 1, *labels.shape[1:])]
    names = tuple(f"case {k}" for k in range(len(labels) + n_unlabeled))
    return Batch(torch.cat(rows), labels, step, 0, False, names, np.random.default_rng(step))


@dataclass
class Step:
    """What a script computed at one step: the arguments of its losses as `main` gave them (where there are two functions, of both), and
    the terms (with their graph if no weight changes)."""

    step: int
    arguments: Mapping[str, Any]
    terms: Mapping[str, Any]


class ScriptedRun:
    """Stands in for `engine.Run` in a script's `main`: hands out the networks and batches it was made with, keeps what comes back.

    `networks`: by role. `kept`: what `keep` gives in place of the thing kept. `rate`: of plain gradient descent; 0 changes no weight.
    """

    ramp = Stage.ramp

    def __init__(self, options: Any, networks: Mapping[str, nn.Module], batches: Sequence[Batch], kept: Mapping[str, Any], rate: float,
                 after: Any, data: str = "ACDC"):
        self.options, self.iterations = options, options.max_iterations
        self.networks, self.golden_batches, self.kept, self.rate, self.after = networks, batches, dict(kept), rate, after
        self.data, self.world = DATA_SETS[data], 1
        self.steps: list[Step] = []
        self.arguments: dict[str, Any] = {}
        self.evaluated: dict[str, Any] = {}

    def refuse(self, condition: Any, sentence: str) -> None:
        if condition:
            raise UserError(sentence)

    def say(self, line: str) -> None:
        print(line)

    def network(self, role: str, model: str | None = None, **arguments: Any) -> nn.Module:
        return self.networks[role]

    def keep(self, name: str, thing: Any, train: bool | None = None) -> Any:
        return self.kept.setdefault(name, thing)

    def optimizer(self, name: str, network: Any, **arguments: Any) -> torch.optim.Optimizer:
        parts = [network] if isinstance(network, nn.Module) else [part for part, _ in network]
        own = [list(part.parameters()) if isinstance(part, nn.Module) else list(part) for part in parts]
        return torch.optim.SGD([p for parameters in own for p in parameters], self.rate)

    def compiled(self, losses: Callable[..., Any]) -> Callable[..., Any]:
        function = compiled(losses, "32", False, torch.device("cpu"))
        signature = inspect.signature(losses)

        def call(*arguments: Any, **named: Any) -> Any:
            self.arguments |= signature.bind(*arguments, **named).arguments
            return function(*arguments, **named)

        return call

    def evaluates(self, **predictors: Any) -> None:
        self.evaluated = predictors

    def items(self, labeled: bool) -> list[Any]:
        return []

    def make_maps(self, *arguments: Any) -> list[Any]:
        return []

    def batches(self, **fed: Any) -> Iterator[tuple[int, Batch]]:
        for batch in self.golden_batches:
            torch.manual_seed(batch.step)
            yield batch.step, batch

    def update(self, optimizers: Any, terms: Mapping[str, Any], minimise: str = "total") -> None:
        if self.rate:
            several = optimizers if isinstance(optimizers, list) else [optimizers]
            for optimizer in several:
                optimizer.zero_grad()
            terms[minimise].backward()
            for optimizer in several:
                optimizer.step()

    def after_step(self, step: int, terms: Mapping[str, Any]) -> None:
        kept = {name: value.detach() for name, value in terms.items()} if self.rate else terms
        self.steps.append(Step(step, dict(self.arguments), kept))
        if self.after:
            self.after(step)

    def finish(self) -> None:
        self.finished = True


def drive(script: ModuleType, options: Any, networks: Mapping[str, nn.Module], batches: Sequence[Batch],
          kept: Mapping[str, Any] | None = None, rate: float = 0.0, after: Callable[[int], None] | None = None,
          data: str = "ACDC") -> ScriptedRun:
    """Runs a training script's own `main` over `batches`; weights and flags of a step are the ones that it makes from `batch.step`."""
    run = ScriptedRun(options, networks, batches, kept or {}, rate, after, data)
    with mock.patch.object(script, "Run", lambda given: run):
        script.main(options)
    assert run.finished
    return run
