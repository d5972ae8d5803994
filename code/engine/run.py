"""A run: a session, its stages, and its end. And `launch`, which every script ends with."""
from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

import networks
from dataloaders.description import DataSet
from dataloaders.errors import UserError
from engine.monitor import Interrupted, Monitor, NotFinite, duration
from engine.options import Kind, Main, Options, Presets, parse
from engine.plan import answer
from engine.session import AlreadyDone, Session
from engine.stage import Stage
from losses.ranks import ProcessLost
from networks.ensembles import ENSEMBLES
from storage import checkpoint
from storage.logbook import Logbook
from storage.silence import Silence
from system import distributed
from system.signals import as_interrupts

OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) if hasattr(errno, "EDQUOT") else (errno.ENOSPC, errno.EFBIG)


class Run(Stage):
    """What a script's `main` works with. Opening it checks the command, the data set and the folder."""

    active: Run | None = None
    """The run of this process, for `launch`."""

    def __init__(self, options: Options):
        session = Session(options)
        book = Logbook(session.folder, options.max_iterations) if distributed.first() else Silence(options.max_iterations)
        super().__init__(session, Monitor(book, session.data.classes), "", options.max_iterations)
        Run.active = self

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
        Run.active = None


def peak_memory(device: torch.device) -> int:
    """Bytes: of the device's allocator on a GPU, of the process elsewhere (0 where the system does not tell)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def launch(main: Main[Kind], kind: type[Kind], presets: Presets, arguments: Sequence[str] | None = None) -> None:
    """Runs a script: parses its options, calls `main`, turns every end into a sentence, a state in status.json and an exit code."""
    if "SEMISEG_PLAN" in os.environ:
        sys.exit(answer(kind, presets))

    def action() -> None:
        distributed.join()
        main(distributed.quietly(lambda: parse(kind, presets, arguments)))

    sys.exit(finish_with(action))


def finish_with(action: Callable[[], None]) -> int:
    """Calls `action`; gives the exit code, with a sentence on the screen for what went wrong."""
    try:
        with as_interrupts():
            action()
            distributed.part()
        return 0
    except ProcessLost:
        return _end(distributed.verdict())
    except KeyboardInterrupt:
        return _leave("Interrupted. Nothing is lost: run the same command again.", 75, "interrupted")
    except AlreadyDone as done:
        return _leave(str(done), 0, "done")
    except Interrupted as stop:
        return _leave(str(stop), 75, "interrupted")
    except NotFinite as error:
        run = Run.active
        if run is None:
            return _leave(str(error), error.code)
        stage = run.monitor.stage or run
        cases = ", ".join(stage.names_of(error.step))
        return _leave(f"{error}.\nCases of the batch: {cases}\nThe last good checkpoint is {stage.file('last')}. "
                      "Lower --base_lr, or look at these images; --fresh begins anew.", error.code)
    except UserError as error:
        return _leave(str(error), error.code)
    except FloatingPointError as error:
        return _leave(f"Validation: {error}. Lower --base_lr; --fresh begins anew.", 3)
    except (OSError, RuntimeError, MemoryError) as error:
        sentence = _known(error)
        if sentence is None:
            traceback.print_exc()
            return _leave(f"Failed: {error}", 3)
        # Before the first step a machine that is not fit is the user's to mend, like bad arguments.
        return _leave(sentence, 2 if isinstance(error, OSError) and not (Run.active and Run.active.monitor.stage) else 3)
    except Exception as error:
        traceback.print_exc()
        return _leave(f"Failed: {error}", 3)


def _known(error: Exception) -> str | None:
    """A sentence for the failures that machines have."""
    run = Run.active
    kept = ""
    if run and (run.monitor.stage or run).file("last").exists():
        kept = f" The last good checkpoint is {(run.monitor.stage or run).file('last')}; run the same command again to go on."
    if isinstance(error, OSError) and error.errno in OUT_OF_ROOM:
        return f"The disk is full, or a file may grow no further ({error.strerror}: {error.filename or 'while writing'}). Make room.{kept}"
    if isinstance(error, OSError) and isinstance(error, PermissionError):
        return f"{error.filename}: cannot be written ({error.strerror}). Mend its permissions.{kept}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        peak = peak_memory(run.device) / 2**30 if run else 0.0
        return (f"Out of memory (peak so far {peak:.1f} GiB). Lower --batch_size, --labeled_bs or --patch_size, "
                f"or use --precision bf16-mixed.{kept}")
    return None


def _leave(sentence: str, code: int, state: str = "failed") -> int:
    return _end(distributed.report(sentence, code, state))


def _end(end: distributed.Report) -> int:
    """Says how the run ends, on the screen and in status.json; gives the exit code."""
    run = Run.active
    if end.mine:
        print(end.sentence, file=sys.stderr if end.code else sys.stdout, flush=True)
    if run is not None:
        try:
            run.monitor.book.status(end.state, (run.monitor.stage or run).steps_done, reason=end.sentence)
            run.monitor.book.close()
        except OSError:
            print("(status.json could not be written)", file=sys.stderr)
        if run.session.lock:
            run.session.lock.release()
        Run.active = None
    distributed.leave(end.code)
    return end.code


