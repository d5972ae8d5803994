"""A run: a session, its stages, and its end."""
from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from torch import nn

import networks
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from engine.monitor import Monitor, duration
from engine.options import Options
from engine.session import Session
from engine.stage import Stage
from networks.ensembles import ENSEMBLES
from storage import checkpoint
from storage.logbook import Logbook
from storage.silence import Silence
from system import distributed
from system.devices import peak_memory


class Run(Stage):
    """What a script's `main` works with. Opening it checks the command, the data set and the folder."""

    def __init__(self, options: Options):
        session = Session(options)
        book = Logbook(session.folder, options.max_iterations) if distributed.first() else Silence(options.max_iterations)
        super().__init__(session, Monitor(book, session.data.classes), "", options.max_iterations)
        session.resolved.ending.run = self

    @property
    def data(self) -> DataSet:
        """The data set's description."""
        return self.session.data

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
        return Stage(self.session, self.monitor, name, iterations)

    def best(self, stage: str, role: str) -> nn.Module:
        """A network of a finished stage at its best (at its last step where nothing was validated), rebuilt, on the device."""
        folder = self.session.folder

        def read() -> dict:
            path = folder / f"{stage}_best.pt"
            return checkpoint.load(path)["predictors"][role] if path.exists() else (
                checkpoint.load(folder / f"{stage}_last.pt")["networks"][role])

        found = distributed.from_first(read)
        network = self.shared(networks.build(found["network"]["name"], **found["network"]["arguments"]))
        network.load_state_dict(found["state"])
        return network.to(self.device)

    # What the end of the program asks (`system.ending.Running`)

    @property
    def began(self) -> bool:
        return self.monitor.stage is not None

    @property
    def checkpoint(self) -> Path:
        return (self.monitor.stage or self).file("last")

    def ended(self, state: str, reason: str) -> None:
        """The run did not finish: status.json says how, and the folder is given back."""
        try:
            self.monitor.book.status(state, (self.monitor.stage or self).steps_done, reason=reason)
            self.monitor.book.close()
        finally:
            if self.session.lock:
                self.session.lock.release()

    def finish(self) -> None:
        """Makes best.pt complete, scores the ensemble of the bests on validation, and says what to type next."""
        say, session = self.monitor.say, self.session
        modules = {name: network for name, network in self.evaluated.items() if isinstance(network, nn.Module)}
        if session.validator is None or session.split.selection == "last":
            # Protocols without a validation part test the last iterate.
            for name, network in modules.items():
                state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
                self.best_states[name] = {"score": None, "step": self.steps_done, "network": network.spec, "state": state}
        self.save_best()
        scores = {name: best["score"] for name, best in self.best_states.items() if best["score"] is not None}
        for name, how in self.evaluated.items():
            if isinstance(how, str) and session.validator is not None:
                members = []
                for role, network in modules.items():
                    network.load_state_dict(self.best_states[role]["state"])
                    members.append(network)
                together = ENSEMBLES[how](members).eval()
                summary = self.monitor.scored(name, self.steps_done, partial(session.score, self.predictor(together)))
                scores[name] = summary["mean"]["dice"] or 0.0
        if self.quote_by_validation and scores and session.split.selection != "last":
            self.quoted = max(scores, key=lambda name: scores[name])
            self.save_best()
            say(f"Quoted: {self.quoted}, the best on validation cases ({scores[self.quoted]:.4f}) of {', '.join(scores)}.")
        share = self.waited() / max(self.train_seconds, 1e-9)
        say(f"Done: {self.steps_done} steps in {duration(self.train_seconds)}, {share:.1%} of it waiting for data; "
            f"validation took {duration(self.monitor.validation_seconds)}.")
        for name, best in self.best_states.items():
            if best["score"] is not None:
                say(f"Best validation Dice of {name}: {best['score']:.4f} at step {best['step']}.")
        self.monitor.book.status("done", self.steps_done, seconds=self.train_seconds, waited=self.waited(),
                                 validation_seconds=self.monitor.validation_seconds, peak_memory=peak_memory(self.device))
        say(f"Next: python code/test_{session.data.dimensions}D.py --run {os.path.relpath(session.folder)}")
        self.monitor.book.close()
        if session.lock:
            session.lock.release()
        session.resolved.ending.run = None
