"""Networks that start from the weights of an earlier run of one's own (--init_run): labels have come back, and training goes on."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from dataloaders.errors import UserError
from storage import checkpoint
from storage.sealed import read_sealed

NO_ROW = "so the result is no benchmark row"


@dataclass
class Earlier:
    """A finished run, and which of its networks have been taken."""

    folder: Path
    config: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Any]]
    """By name, its own first: {"network": {"name", "arguments"}, "state": tensors by name}, each at its best."""
    taken: set[tuple[str, str]] = field(default_factory=set)
    """(stage, network of that run)."""

    @property
    def labeled(self) -> set[str]:
        """Names of the images that its weights were learned from, those of the runs that it started from itself included."""
        return {*self.config["split"]["labeled"], *self.config.get("init", {}).get("labeled", ())}

    def said(self, validation: Sequence[str], classes: Sequence[str]) -> str:
        """The sentence with which it is announced, that stands in every result. `validation`: names of the run's validation cases;
        `classes`: what ids mean now. Raises `UserError` where the earlier run had the same classes in another order."""
        then = [str(name) for name in self.config.get("classes", ())]
        if then != list(classes) and sorted(then) == sorted(classes):
            raise UserError(f"--init_run {self.folder}: the classes are {', '.join(classes)} now, and were {', '.join(then)} in that run: "
                            "the same names in another order, so each would start as another. Bring the order of then back (classes.txt), "
                            "or train without --init_run.")
        labeled = self.labeled
        seen = sum(name in labeled for name in validation)
        told = (f"Networks start from the weights of {self.folder.name} ({self.config['method']} on {self.config['data_set']}, "
                f"{len(labeled)} labelled), {NO_ROW}.")
        if seen:
            told += (f" {seen} of {len(validation)} validation images were labelled images of that run: their scores are too good, "
                     "and choose the best step all the same.")
        if len(then) == len(classes) and then != list(classes):
            told += f" Its classes were called {', '.join(then)}; what has the same id starts from the same outputs."
        return told

    def start(self, network: nn.Module, stage: str, role: str) -> str:
        """Lets a new network start from that run's network of its role, or else, once in a stage, from the run's own; gives the line that
        says what became of it."""
        spec: Any = getattr(network, "spec", {})
        fitting = [name for name, one in self.networks.items() if one["network"]["name"] == spec.get("name")]
        name = role if role in fitting else next((one for one in fitting if (stage, one) not in self.taken), None)
        if name is None:
            there = ", ".join(f"{key} ({one['network']['name']})" for key, one in self.networks.items())
            return f"{role} ({spec.get('name')}): from scratch; the earlier run has {there}."
        own, given = network.state_dict(), self.networks[name]["state"]
        same = {key: tensor for key, tensor in given.items() if key in own and own[key].shape == tensor.shape}
        if not same:
            return f"{role} ({spec.get('name')}): from scratch; no tensor of the earlier run's {name} has its shape."
        network.load_state_dict(own | same)
        self.taken.add((stage, name))
        rest = len(own) - len(same)
        but = f", but for {rest} of {len(own)} tensors of other shapes" if rest else ""
        return f"{role}: starts from {name} of the earlier run{but}."

    def check_used(self) -> None:
        """Raises `UserError` where no network has taken anything."""
        if not self.taken:
            there = ", ".join(dict.fromkeys(str(one["network"]["name"]) for one in self.networks.values()))
            raise UserError(f"--init_run {self.folder}: no network of this run can start from it; its networks are {there}. Give "
                            "the same --model.")


def read(folder: Path) -> Earlier:
    """Raises `UserError` for a run that is not finished, `Damaged` for a checkpoint that cannot be trusted."""
    try:
        config, status = (read_sealed(folder / name, "Bring the file back, or give another run.")
                          for name in ("config.json", "status.json"))
    except OSError as error:
        raise UserError(f"--init_run {folder}: this run cannot be read ({error}).") from None
    if status.get("state") != "done":
        raise UserError(f"--init_run {folder}: this run is not finished ({status.get('state')}). Run its command again: "
                        f"python {config['command']}")
    best = checkpoint.load(folder / "best.pt")
    order = [name for name in best["order"] if name in best["predictors"]]
    return Earlier(folder, config, {name: best["predictors"][name] for name in (*order, *best["predictors"])})
