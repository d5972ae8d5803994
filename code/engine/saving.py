"""What of a stage lies on the disk: last.pt, best.pt, and the way back from them. Rank 0 writes and reads; all others get it from there."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataloaders.errors import UserError
from storage import checkpoint
from system import distributed

if TYPE_CHECKING:
    from engine.stage import Stage


def file_of(stage: Stage, kind: str) -> Path:
    """last.pt and best.pt of the run, <stage>_last.pt and <stage>_best.pt of a stage."""
    return stage.session.folder / (f"{stage.name}_{kind}.pt" if stage.name else f"{kind}.pt")


def save_last(stage: Stage) -> None:
    """Writes last.pt; the one before stays as last.prev.pt."""
    bests = {name: {"score": best["score"], "step": best["step"]} for name, best in stage.best_states.items()}
    checkpoint.save(file_of(stage, "last"), {
        "format": 1, "kind": "last", "stage": stage.name, "step": stage.steps_done, "iterations": stage.iterations,
        "method": stage.session.resolved.method, "code": stage.session.config["code"], "changes": stage.session.changes,
        "options": stage.session.config["options"],
        "networks": {name: {"network": network.spec, "state": network.state_dict()} for name, network in stage.networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in stage.optimizers.items()},
        "kept": {name: dict(thing.state_dict()) for name, thing in stage.kept.items()},
        "best": bests, "metrics_offset": stage.monitor.book.offset, "seconds": [stage.train_seconds, stage.waited()],
    }, keep_previous=True)


def save_best(stage: Stage) -> None:
    """Writes best.pt: every evaluated network at its own best, and how they are combined."""
    checkpoint.save(file_of(stage, "best"), {
        "format": 1, "kind": "best", "stage": stage.name, "method": stage.session.resolved.method, "code": stage.session.config["code"],
        "order": sorted(stage.evaluated, key=lambda name: name != stage.quoted), "predictors": dict(stage.best_states),
        "ensembles": {name: how for name, how in stage.evaluated.items() if isinstance(how, str)},
    })


def restore(stage: Stage) -> None:
    """Brings a stage to where its last checkpoint stands; without one, writes the first, at step 0."""
    state, bests = distributed.from_first(lambda: _read(stage))
    if state is None:
        return
    try:
        for name, network in stage.networks.items():
            network.load_state_dict(state["networks"][name]["state"])
        for name, optimizer in stage.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        for name, thing in stage.kept.items():
            thing.load_state_dict(state["kept"][name])
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{file_of(stage, 'last')}: the checkpoint does not fit the networks of this script ({type(error).__name__}: "
                        f"{error}). Begin anew with --fresh, or go back to the code that made it.", code=4) from error
    stage.steps_done = state["step"]
    stage.train_seconds, stage.wait_seconds = state["seconds"]
    if state["best"]:
        stage.best_states = {name: bests[name] for name in state["best"]}
    stage.monitor.resume_at(state["metrics_offset"])
    if stage.steps_done < stage.iterations:
        stage.monitor.say(f"resumed at step {stage.steps_done}")


def _read(stage: Stage) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The state of last.pt, None where there is none yet, and the networks of best.pt."""
    path = file_of(stage, "last")
    for leftover in path.parent.glob("*.tmp-*"):
        leftover.unlink(missing_ok=True)
    if not path.exists() and not checkpoint.previous_of(path).exists():
        stage.monitor.resume_at(stage.monitor.book.offset)
        try:
            save_last(stage)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Make room, or mend its permissions.") from error
        return None, {}
    state = checkpoint.load_last(path, stage.monitor.say)
    # best.pt may be of a later step than last.pt: then the run comes to that step, and to that score, again.
    return state, checkpoint.load(file_of(stage, "best"))["predictors"] if state["best"] else {}
