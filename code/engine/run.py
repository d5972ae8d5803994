"""A run: a session, its stages, and its end."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from torch import Tensor, nn

import networks
from command_line.options import Options
from dataloaders.batches.store import label_of
from dataloaders.description import DataSet, Item
from dataloaders.errors import UserError
from dataloaders.progress import duration
from engine import pseudo_masks, saving
from engine.monitor import Monitor
from engine.saving import snapshot
from engine.session import Session
from engine.stage import Stage
from inference import score_of
from inference.scoring import WORDS
from networks.ensembles import ENSEMBLES
from storage.checkpoint import write_json
from storage.logbook import Logbook
from storage.sealed import parsed, sealed
from storage.silence import Silence
from system import distributed


class Run(Stage):
    """What a script's `main` works with. Opening it checks the command, the data set and the folder."""

    def __init__(self, options: Options):
        session = Session(options)
        book = Logbook(session.folder, options.max_iterations) if distributed.first() else Silence(options.max_iterations)
        super().__init__(session, Monitor(book, session.data), "", options.max_iterations)
        self.stages: list[Stage] = []
        session.resolved.ending.run = self

    @property
    def data(self) -> DataSet:
        """The data set's description."""
        return self.session.data

    def items(self, labeled: bool) -> list[Item]:
        """The labelled, or the unlabelled, training images (slices of volumes that are trained slice by slice), in published order."""
        return self.session.training.items(labeled)

    def class_counts(self) -> np.ndarray:
        """How many pixels of each class the labelled training images have, as stored; (classes,) int64."""
        labels = (label_of(self.session.source, item) for item in self.items(True))
        counts = [np.bincount(label.ravel(), minlength=256) for label in labels if label is not None]
        return np.sum(counts, 0)[: self.data.num_classes]

    def say(self, text: str) -> None:
        """A line on the screen and in log.txt."""
        self.monitor.say(text)

    def refuse(self, condition: object, sentence: str) -> None:
        """Ends the run with a sentence (exit code 2) where a method cannot do what was asked."""
        if condition:
            raise UserError(sentence)

    def stage(self, name: str, iterations: int) -> Stage:
        """A training loop before the main one, with networks, rate, step count and best of its own.

        A finished stage is not run again: its `batches()` are over at once.
        """
        if not name.isidentifier() or name in [stage.name for stage in self.stages]:
            raise ValueError(f"a stage is named by a word that no other stage of the run has, not {name!r}")
        self.stages.append(Stage(self.session, self.monitor, name, iterations))
        return self.stages[-1]

    def best(self, stage: str, role: str) -> nn.Module:
        """A network of a finished stage at its best (at its last step where nothing was validated), rebuilt, on the device."""
        found = distributed.from_first(lambda: saving.result(self.session.folder, stage, role, self.monitor.say))
        network = self.shared(networks.build(found["network"]["name"], **found["network"]["arguments"]))
        network.load_state_dict(found["state"])
        return network.to(self.device)

    def predict_unlabeled(self, name: str, network: nn.Module, items: Sequence[Item] | None = None,
                          maps: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None, mirror: bool = False) -> list[Item]:
        """Pseudo masks that `network` makes of the unlabelled training images (or of `items`), as items for `batches`.

        Args:
            name: a word for them; their files lie in the run's folder, below `pseudo_masks/<name>/`.
            maps: by name, what is made of an image's probabilities (classes, *spatial) float32 and written beside its mask:
                (*spatial) float32 or uint8. The mask itself is the map "mask" too.
            mirror: the mean over all mirrored versions of an image.

        A file that is there already and was made by the same weights is not made again, so that a kill costs one image.
        """
        return pseudo_masks.write(self.session, name, network, self.predictor(network), self.items(False) if items is None else items,
                                  maps or {}, mirror, self.monitor)

    def make_maps(self, name: str, items: Sequence[Item], kinds: Sequence[str], make: pseudo_masks.Make) -> list[Item]:
        """Per-pixel maps that are computed once of each image and its label, as items for `batches`.

        Args:
            name: a word for them; their files lie in the run's folder, below `pseudo_masks/<name>/`.
            kinds: names of the maps.
            make: of an item, its image (C, *spatial) and the label that is trained on (None: it has none), all maps by name: (*spatial)
                float32 or uint8. Called in several threads.

        A file that is there already and was made by the same code is not made again, so that a kill costs a few images.
        """
        return pseudo_masks.compute(self.session, name, items, kinds, make, self.monitor)

    def label(self, item: Item) -> np.ndarray:
        """(*spatial) uint8: what a training image is learned from, at its own size; its mask where a stage wrote one.

        Raises `UserError` where there is none.
        """
        label = label_of(self.session.training.source, item)
        if label is None:
            raise UserError(f"{item.name}: there is no label of it.")
        return label

    def as_tested(self, items: Sequence[Item], network: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """(image (1, C, *sides), label (1, *sides) int64) of training images one by one, as the network would be handed them in a test.

        A border that is repeated to what the network takes is 255 in the label. On the device.
        """
        for item in items:
            pixels = self.session.training.source.image(item)
            volume = self.data.dimensions == 3
            image, label = self.session.inference.handed(network, pixels if volume else pixels[:, None], self.label(item))
            yield image.to(self.device), label.to(self.device)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives (numbers, words, lists and dicts of them), made once and kept in the run's folder, so that no kill costs it.

        Of several processes the first makes it. `name`: a word for it.
        """
        file = self.session.folder / f"{name}.json"

        def found() -> str:
            try:
                return json.dumps(parsed(file.read_bytes())["made"])
            except (OSError, ValueError, KeyError):  # there is none, or it cannot be trusted
                made = sealed({"made": make()})
                write_json(file, made)
                return json.dumps(made["made"])

        return json.loads(distributed.from_first(found))

    # What the end of the program asks (`system.ending.Running`)

    @property
    def began(self) -> bool:
        return self.monitor.loop is not None

    @property
    def checkpoint(self) -> Path:
        return self._current().file("last")

    def ended(self, state: str, reason: str, trace: str = "") -> None:
        """The run did not finish: status.json says how, and the folder is given back."""
        try:
            self.monitor.book.status(state, self._current().steps_done, reason=reason)
            self.monitor.book.note(trace + reason)
        finally:
            self.monitor.book.close()  # where status.json could not be written too: what can be flushed is
            self.session.release()

    def _current(self) -> Stage:
        """The stage whose loop is under way, or was last."""
        name = self.monitor.loop.stage if self.monitor.loop else ""
        return next((stage for stage in self.stages if stage.name == name), self)

    def finish(self) -> None:
        """Makes best.pt complete, scores the ensemble of the bests on validation, and says what to type next."""
        say, session = self.monitor.say, self.session
        modules = {name: network for name, network in self.evaluated.items() if isinstance(network, nn.Module)}
        if session.validator is None or session.split.selection == "last":
            # Protocols without a validation part test the last iterate.
            self.best_states |= {name: snapshot(network, self.steps_done, None) for name, network in modules.items()}
        self.save_best()
        scores = {name: best["score"] for name, best in self.best_states.items() if best["score"] is not None}
        for name, how in self.evaluated.items():
            if isinstance(how, str) and session.validator is not None:
                members = []
                for role, network in modules.items():
                    network.load_state_dict(self.best_states[role]["state"])
                    members.append(network)
                together = ENSEMBLES[how](members).eval()
                summary = self.scored(name, partial(session.score, self.predictor(together)))
                scores[name] = score_of(summary, session.data)
        if self.quote_by_validation and scores and session.split.selection != "last":
            self.quoted = max(scores, key=lambda name: scores[name])
            self.save_best()
            say(f"Quoted: {self.quoted}, the best on validation cases ({scores[self.quoted]:.4f}) of {', '.join(scores)}.")
        costs: list[dict[str, Any]] = [
            {"stage": stage.name, "steps": stage.steps_done, **stage.spent_so_far().asdict()} for stage in (*self.stages, self)]
        whole = {key: sum(cost[key] for cost in costs) for key in ("seconds", "waited", "validation_seconds")}
        steps, peak = sum(cost["steps"] for cost in costs), max(cost["peak_memory"] for cost in costs)
        each = ", ".join(f"{cost['stage'] or 'the last stage'} {cost['steps']}" for cost in costs)
        parts = f" ({each})" if self.stages else ""
        share = whole["waited"] / max(whole["seconds"], 1e-9)
        say(f"Done: {steps} steps{parts} in {duration(whole['seconds'])}, {share:.1%} of it waiting for data; validation took "
            f"{duration(whole['validation_seconds'])}.")
        for name, best in self.best_states.items():
            if best["score"] is not None:
                say(f"Best validation {WORDS[session.data.evaluation.best_by]} of {name}: {best['score']:.4f} at step {best['step']}.")
        self.monitor.book.total = steps
        self.monitor.book.status("done", steps, **whole, peak_memory=peak, stages=costs)
        say(f"Next: python code/test_{session.data.dimensions}D.py --run {quote(os.path.relpath(session.folder))}")
        self.monitor.book.close()
        session.release()
        session.resolved.ending.run = None
