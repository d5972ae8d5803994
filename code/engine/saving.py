"""The checkpoints of a stage: what a file holds, and the way back from it. Rank 0 writes and reads; all others get it from there."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dataloaders.errors import UserError
from storage import checkpoint


class Stateful(Protocol):
    """Anything with a state that a checkpoint can hold: plain values and tensors."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


@dataclass
class Parts:
    """What of a stage changes while it trains."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, Any]
    kept: dict[str, Any]

    def state(self) -> dict[str, Any]:
        return {
            "networks": {name: {"network": network.spec, "state": network.state_dict()} for name, network in self.networks.items()},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "kept": {name: dict(thing.state_dict()) for name, thing in self.kept.items()},
        }

    def put_back(self, state: Mapping[str, Any], file: Path) -> None:
        """Brings all parts to `state`, which was read from `file`. Raises `UserError` where it does not fit them."""
        try:
            for name, network in self.networks.items():
                network.load_state_dict(state["networks"][name]["state"])
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(state["optimizers"][name])
            for name, thing in self.kept.items():
                thing.load_state_dict(state["kept"][name])
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(f"{file}: the checkpoint does not fit the networks of this script ({type(error).__name__}: {error}). "
                            "Begin anew with --fresh, or go back to the code that made it.", code=4) from error


@dataclass
class Spent:
    """What a stage has cost so far, interrupted sessions included."""

    seconds: float = 0.0
    """Of training, validation apart."""
    waited: float = 0.0
    """Of these, for data."""
    validation_seconds: float = 0.0
    peak_memory: int = 0
    """Bytes."""

    def asdict(self) -> dict[str, float]:
        return asdict(self)

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Spent:
        """From a checkpoint; old ones have two numbers under "seconds"."""
        return cls(**state["spent"]) if "spent" in state else cls(*state["seconds"])


def file_of(folder: Path, stage: str, kind: str) -> Path:
    """last.pt and best.pt of the run, <stage>_last.pt and <stage>_best.pt of a stage."""
    return folder / (f"{stage}_{kind}.pt" if stage else f"{kind}.pt")


def snapshot(network: nn.Module, step: int, score: float | None) -> dict[str, Any]:
    """A network as it is now, as best.pt holds it: on the host, with what is needed to build it again."""
    state = on_host({key: value.detach() for key, value in network.state_dict().items()})
    return {"score": score, "step": step, "network": network.spec, "state": state}


def on_host(tree: Any) -> Any:
    """Dicts, lists and tuples with copies of their tensors on the host.

    From a GPU all tensors of a type come in one piece, so that the host waits for each type and not for each tensor.
    """
    whole = {id(value): value for value in tensors_in(tree)}
    copies: dict[int, Tensor] = {}
    for kind in {(value.dtype, value.device) for value in whole.values()}:
        alike = {key: value for key, value in whole.items() if (value.dtype, value.device) == kind}
        if kind[1].type == "cpu":
            copies |= {key: value.detach().clone() for key, value in alike.items()}
            continue
        flat = torch.cat([value.detach().reshape(-1) for value in alike.values()]).cpu()
        for (key, value), part in zip(alike.items(), flat.split([value.numel() for value in alike.values()])):
            copies[key] = part.view(value.shape).clone()

    def copied(part: Any) -> Any:
        if isinstance(part, Tensor):
            return copies[id(part)]
        if isinstance(part, Mapping):
            return {key: copied(value) for key, value in part.items()}
        return type(part)(copied(value) for value in part) if type(part) in (list, tuple) else part

    return copied(tree)


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """All tensors of dicts, lists and tuples."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping | list | tuple):
        for part in tree.values() if isinstance(tree, Mapping) else tree:
            yield from tensors_in(part)


def read(folder: Path, stage: str, say: Callable[[str], object]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The state of a stage's last checkpoint, None where there is none yet, and the networks of its best.pt."""
    path = file_of(folder, stage, "last")
    for leftover in path.parent.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    if not path.exists() and not checkpoint.previous_of(path).exists():
        return None, {}
    state = checkpoint.load_last(path, say)
    # best.pt may be of a later step than last.pt: then the run comes to that step, and to that score, again.
    return state, checkpoint.load(file_of(folder, stage, "best"))["predictors"] if state["best"] else {}


def result(folder: Path, stage: str, role: str, say: Callable[[str], object]) -> dict[str, Any]:
    """A network of a finished stage at its best, at its last step where nothing was validated: {"network": ..., "state": ...}."""
    best = file_of(folder, stage, "best")
    if best.exists():
        return checkpoint.load(best)["predictors"][role]
    return checkpoint.load_last(file_of(folder, stage, "last"), say)["networks"][role]
