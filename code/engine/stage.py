"""The loop's other half: what `run.update`, `run.after_step` and the rest do for a script (see code/README.md)."""
from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import networks
from dataloaders.augmentation.frame import Fill
from dataloaders.batches.loader import Batch, Loader
from dataloaders.description import Item
from dataloaders.errors import UserError
from engine import fitting, saving
from engine.feeding import Fed, loader_of, told
from engine.fitting import check_network
from engine.monitor import Monitor, NotFinite, scalars
from engine.saving import Parts, Spent, snapshot
from engine.schedules import Form, ScheduledOptimizer, ramp
from engine.session import Session
from inference import Predictor, score_of
from losses import ranks
from networks.compiling import compiled
from networks.folding import for_inference
from networks.sync_norm import count_rows, synchronise
from storage import checkpoint
from system import distributed, faults
from system.devices import peak_memory
from system.ending import Leave
from system.signals import Signals

Terms = Mapping[str, Tensor]


def seed_of(*parts: object) -> int:
    """A 63-bit seed from what it is for; different parts never share a stream."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1


class Stage:
    """One training loop: its networks, optimizers, kept state, step count, rate and best. A run is a stage without a name."""

    def __init__(self, session: Session, monitor: Monitor, name: str, iterations: int):
        self.rank, self.world = distributed.rank(), ranks.world()
        self.session, self.options, self.name, self.iterations = session, session.options, name, iterations
        self.monitor, self.device = monitor, session.device
        self.parts = Parts({}, {}, {})
        self.evaluated: dict[str, nn.Module | str] = {}
        self.quote_by_validation, self.quoted = False, ""
        self.best_states: dict[str, dict[str, Any]] = {}
        self.val_every = session.options.val_every
        self.steps_done = 0
        self.spent = Spent()
        self._training: dict[nn.Module, bool] = {}
        self._loader: Loader | None = None
        self._signals: Signals | None = None
        self._step_started = 0.0

    # What a script declares before its loop

    def network(self, role: str, model: str | None = None, several_heads: bool = False, **arguments: Any) -> nn.Module:
        """Builds a network on the device; its initial weights follow from --seed and `role`.

        `model` other than --model, and further `arguments` of its builder: networks of the method's own. `several_heads`: gives a tuple.
        """
        torch.manual_seed(seed_of(self.options.seed, self.name, "weights", role))
        data = self.session.data
        given: dict[str, Any] = {"in_channels": data.channels, "num_classes": data.num_classes, "mean": data.mean, "std": data.std,
                                 "dropout": self.options.dropout}
        built = model or self.options.model
        asked = arguments.get("body", built)  # what a network is made of is what was typed
        given = {name: value for name, value in given.items() if name in networks.arguments(built, asked)}
        try:
            network = networks.build(built, **(given | arguments))
        except ValueError as error:
            raise UserError(f"--model {asked}: {error}.") from error
        check_network(asked, network, data, self.options, several_heads)
        for line in fitting.prepare(network, role, self.options):
            self.monitor.say(line)
        if self.session.earlier:
            self.monitor.say(self.session.earlier.start(network, self.name, role))
        network = self.shared(network).to(self.device)
        if self.session.data.dimensions == 2:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.parts.networks[role] = network
        self._training[network] = True
        return network

    def shared(self, network: nn.Module) -> nn.Module:
        """A network as several processes train it: with --sync_bn, batch norm over the rows of all."""
        return synchronise(network) if self.options.sync_bn and self.world > 1 else network

    def keep(self, name: str, thing: Any, train: bool | None = None) -> Any:
        """Anything with state_dict and load_state_dict (a teacher, a policy, a queue): saved and restored with the rest.

        train: the mode that a network gets before every step. True: batch norm of its own rows, dropout (the published teachers);
        False: as in a test, its statistics as they are. Raises TypeError for a network of which it is not said.
        """
        if isinstance(thing, nn.Module):
            if train is None:
                raise TypeError(f'keep("{name}", ...): say train=True (a teacher that sees batches as the student does) or train=False '
                                "(a network that predicts as in a test)")
            self._training[thing] = train
        self.parts.kept[name] = thing
        return thing

    def optimizer(self, name: str, modules: fitting.Parts, kind: str | None = None, lr: float | None = None,
                  schedule: str | None = None, momentum: float = 0.9, weight_decay: float | None = None, nesterov: bool = False,
                  betas: tuple[float, float] = (0.9, 0.999), clip: float | None = None, stretch: float = 1.0) -> ScheduledOptimizer:
        """SGD, Adam or AdamW over a network, or over (network or some of its parameters, factor of the rate) pairs.

        What of a network without a factor is not its backbone learns at `head_rate` (an option) times the rate.

        `kind`, `lr` and `schedule` default to the options, `weight_decay` to 1e-4 (sgd), 0 (adam) or 1e-2 (adamw). `clip`: largest norm of
        the gradient. `stretch`: how many times as long as the stage the schedule is, so that above 1 it is left before its end. A plateau
        schedule follows the score of the evaluated network `name`.
        """
        pairs = fitting.rates_of(modules, self.options.head_rate)
        groups = [{"params": parameters} for parameters, _ in pairs]
        base = self.options.base_lr if lr is None else lr
        form = Form(kind or self.options.optimizer, momentum, weight_decay, nesterov, betas)
        made = ScheduledOptimizer(form.build(groups, base, self.device), base, schedule or self.options.schedule,
                                  [factor for _, factor in pairs], self.options.patience, clip, stretch)
        self.parts.optimizers[name] = made
        return made

    def compiled(self, losses: Callable[..., Terms]) -> Callable[..., Terms]:
        """`losses` as it is run: under --precision inside the networks, with --compile each as a graph, floats as tensors."""
        return compiled(losses, self.options.precision, self.options.compile, self.device)

    def evaluates(self, by_validation: object = False, **predictors: nn.Module | str) -> None:
        """What is validated and tested; the first named is the method's own number, or the best by validation.

        A network keeps its own best. A string combines all networks named here: "mean_logits", "mean_probabilities".
        """
        self.evaluated, self.quote_by_validation = predictors, bool(by_validation)

    # The loop

    def batches(self, labeled: Sequence[Item] | None = None, unlabeled: Sequence[Item] | None = None,
                maps: Mapping[str, Fill | float] | None = None, batch_size: int | None = None, labeled_bs: int | None = None,
                labeled_only: bool = False, augment: Any = None, recipe: str | None = None, views: int = 1, draws: int = 1,
                drop_last: bool = False, parts: Sequence[tuple[Sequence[Item], Sequence[Item]]] = (),
                turns: Sequence[int] = ()) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from where the stage stands to its end, all networks in their modes, rates set, draws of the step seeded.

        Args:
            labeled, unlabeled: the images, in place of the run's own; `run.items` and `run.predict_unlabeled` give such. One that stands
                several times is read once, and seen as often.
            maps: names of per-pixel maps of these (`Item.maps`), warped with the images into `batch.maps`, and what a pixel has that
                nothing is known of: a number, or a `Fill` that tells an image without the map from what lies outside an image.
            batch_size, labeled_bs: in place of the options.
            labeled_only: batches of labelled images alone.
            augment: a learned policy (sample, apply, update), kept by `keep`; then there is `batch.strong`.
            recipe: an augmentation in place of the data set's, a name in `recipes.RECIPES`.
            views: how often each unlabelled image is augmented; `batch.views` has all but the first.
            draws: how many batches of unlabelled images; `batch.mates` has all but the first.
            drop_last: of labelled images alone: leave out the last, smaller batch of an epoch, unless it is the only one.
            parts, turns: (labelled, unlabelled) images of each part, in place of the run's own, and the part of every step: a batch has
                images of one part, of the kinds that it has.
        """
        if parts:
            labeled, unlabeled = ([item for part in parts for item in part[kind]] for kind in (0, 1))
        sizes = [(len(known), len(others)) for known, others in parts]
        fed = Fed(labeled, unlabeled, maps or {}, batch_size, labeled_bs, labeled_only, augment, recipe, views, draws, drop_last, sizes,
                  turns)
        return self._steps(fed)

    def _steps(self, fed: Fed) -> Iterator[tuple[int, Batch]]:
        options, session, monitor = self.options, self.session, self.monitor
        fitting.refuse_unused(self.parts.networks, options.pretrained)
        if session.earlier:
            session.earlier.check_used()
        self._check_plateaus()
        state, bests = distributed.from_first(lambda: saving.read(session.folder, self.name, monitor.say))
        if self.name and state is not None and state["step"] == self.iterations:
            self._put_back(state, bests)
            return
        store, places = session.training.store(fed, monitor.say)
        seed = seed_of(options.seed, self.name, "batches")
        loader = self._loader = loader_of(fed, store, places, options, session.data, seed, self.device)
        fitting.check_rows(self.parts.networks, loader.sampler.fewest, len(places.labeled), options)
        if options.schedule == "plateau" and options.steps_per_epoch is None:
            self.val_every = loader.steps_per_epoch
        files, begun = session.training.files(fed), bool(state and state["step"])
        distributed.on_first(lambda: session.compare_files(self.name, files, begun))
        offset = self._first_save() if state is None else self._put_back(state, bests)
        session.say_plan(monitor.book.say)
        monitor.begin(self.name, self.steps_done, self.iterations, offset)
        for line in told(fed, store, places, options, session.things, f"{self.iterations} steps on {session.device_name}"):
            monitor.say(line)
        if state is not None:
            monitor.say(f"resumed at step {self.steps_done}")
        with Signals() as self._signals, contextlib.closing(loader):
            self._step_started = time.perf_counter()
            for step, batch in loader.batches(self.steps_done, self.iterations):
                torch.manual_seed(seed_of(options.seed, self.name, step, self.rank))
                for module, train in self._training.items():
                    module.train(train)
                    count_rows(module, not batch.stands_in)
                for optimizer in self.parts.optimizers.values():
                    optimizer.set_rate(step, self.iterations)
                faults.reach("step", self.name or "last")
                yield step, batch

    def augmented(self, places: Sequence[int] | np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """(images (n, C, *spatial), labels (n, *spatial)) of labelled images under an augmentation drawn from `rng`.

        Inside the loop alone. `places`: which, in the order of what the loop is fed.
        """
        assert self._loader is not None
        return self._loader.augmented(places, rng)

    def ramp(self, step: int, length: float, unit: int = 150) -> float:
        """The share of its weight that a term has at a step: a staircase from e^-5 to 1 in `length` units of `unit` steps.

        Under --ramp whole it has as many stairs, and they fill the stage.
        """
        return ramp(step, length, unit, self.iterations if self.options.ramp == "whole" else None)

    def update(self, optimizers: ScheduledOptimizer | Sequence[ScheduledOptimizer], terms: Terms, minimise: str = "total") -> None:
        """Differentiates terms[minimise] for the optimizers' own parameters, and steps them.

        A loss that is not finite raises before the step on the CPU; on a GPU a flag is kept there and read when logging and saving.
        Of several processes, each takes its share: gradients and, in place, scalar terms become their means over all.
        """
        several = [optimizers] if isinstance(optimizers, ScheduledOptimizer) else list(optimizers)
        loss = terms[minimise]
        if faults.due("nan", "step", self.steps_done):
            loss = loss * float("nan")
            terms = {**terms, minimise: loss}
        parameters = [p for optimizer in several for p in optimizer.parameters]
        for optimizer in several:
            optimizer.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        names, values = scalars(terms)
        bad = (~values.isfinite()).float()
        if self.world > 1:
            bad, sums = distributed.average_gradients(parameters, torch.cat([bad, values])).chunk(2)
            for name, mean in zip(names, sums / self.world):
                if terms[name].is_floating_point() and not (terms[name].is_leaf and terms[name].requires_grad):
                    terms[name].data.copy_(mean)
        with self._explained():
            self.monitor.watch(names, values, bad, self.steps_done)
        for optimizer in several:
            optimizer.step()

    def after_step(self, step: int, terms: Terms) -> None:
        """Counts the step; logs, validates, saves and leaves when it is time for that."""
        self.steps_done = done = step + 1
        options, last = self.options, done == self.iterations
        self.spent.seconds += time.perf_counter() - self._step_started
        if self.world > 1:
            distributed.average_buffers(self._training)
            if self.device.type != "cpu":
                distributed.meet()  # a process that has died is noticed here, before a value is read that waits for it on the GPU
        with self._explained():
            self.monitor.step(terms, done, options.log_every, self._rates)
        if self.session.validator is not None and (done % self.val_every == 0 or last):
            self.validate(done)
        assert self._signals is not None
        leaving = distributed.any_of(self._signals.wanted)
        if done % options.save_every == 0 or last or leaving:
            self.save()
        if leaving and not last:
            distributed.meet()  # whoever left before the file is whole would have torchrun end the writer
            self.monitor.book.status("interrupted", done)
            where = f"step {done} of {self.iterations}" + (f" of the stage {self.name}" if self.name else "")
            raise Leave(f"Interrupted at {where}; the state is saved. Run the same command again to go on.", 75, "interrupted")
        self._step_started = time.perf_counter()

    def validate(self, done: int) -> None:
        """Scores every evaluated network on the validation cases, keeps bests, and tells the plateau schedules."""
        validator, score = self.session.validator, self.session.score
        assert validator is not None
        with self._explained():
            self.monitor.check_finite()
        improved = False
        faults.reach("validation")
        shown: Predictor | None = None
        for name, network in self.evaluated.items():
            if not isinstance(network, nn.Module):
                continue
            network.eval()
            predictor = self.predictor(network)
            shown = shown or predictor
            summary = self.scored(name, partial(score, predictor))
            achieved = score_of(summary, self.session.data)
            optimizer = self.parts.optimizers.get(name)
            if optimizer is not None and optimizer.plateau:
                optimizer.plateau.see(achieved)
            if achieved > self.best_states.get(name, {}).get("score", -math.inf):
                improved = True
                self.best_states[name] = snapshot(network, done, achieved)
        if shown and distributed.first() and self.monitor.wants_picture(done, self.val_every):
            self.monitor.picture_of(shown, validator, done)
        if improved:
            self.save_best()
        faults.reach("validated")

    def scored(self, name: str, score: Callable[[], Any]) -> Any:
        """The summary of a validation, which is logged and timed."""
        summary, seconds = self.monitor.scored(name, self.steps_done, score)
        self.spent.validation_seconds += seconds
        return summary

    def predictor(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """The network as it is now, as a tester calls it: no gradients, the precision and memory format of training."""
        folded = for_inference(network)
        mixed = self.options.precision == "bf16-mixed"

        @torch.no_grad()
        def predict(images: Tensor) -> Any:
            if images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                return folded(images)

        predict.multiple = network.multiple  # type: ignore[attr-defined]
        return predict

    # What lies on the disk

    def file(self, kind: str) -> Path:
        """Where a checkpoint lies: "last" or "best"."""
        return saving.file_of(self.session.folder, self.name, kind)

    def save(self) -> None:
        """Writes last.pt, if every loss was finite; the one before stays as last.prev.pt. status.json tells the step."""
        with self._explained():
            self.monitor.check_finite()
        if not distributed.first():
            return
        config = self.session.config
        parts = self.parts.state() if self.device.type == "cpu" else saving.on_host(self.parts.state())
        checkpoint.save(self.file("last"), {
            "format": 1, "kind": "last", "stage": self.name, "step": self.steps_done, "iterations": self.iterations,
            "method": self.session.resolved.method, "code": config["code"], "changes": config.get("changes", []),
            "options": config["options"], **parts,
            "best": {name: {"score": best["score"], "step": best["step"]} for name, best in self.best_states.items()},
            "metrics_offset": self.monitor.book.offset, "spent": self.spent_so_far().asdict(),
        }, keep_previous=True)
        if self.monitor.loop is not None:
            self.monitor.book.status("running", self.steps_done)

    def save_best(self) -> None:
        """Writes best.pt: every evaluated network at its own best, and how they are combined."""
        if distributed.first():
            checkpoint.save(self.file("best"), {
                "format": 1, "kind": "best", "stage": self.name, "method": self.session.resolved.method,
                "code": self.session.config["code"], "options": self.session.config["options"],
                "order": sorted(self.evaluated, key=lambda name: name != self.quoted),
                "predictors": dict(self.best_states),
                "ensembles": {name: how for name, how in self.evaluated.items() if isinstance(how, str)},
            })

    def _first_save(self) -> int:
        """Writes a checkpoint at step 0, so that a disk that cannot be written is noticed; gives the bytes of metrics.jsonl before it."""
        offset = self.monitor.book.offset
        try:
            self.save()
        except OSError as error:
            raise UserError(f"{self.file('last')}: cannot be written ({error.strerror or error}). "
                            "Make room, or mend its permissions.") from error
        return offset

    def _put_back(self, state: Mapping[str, Any], bests: Mapping[str, Any]) -> int:
        """Brings the stage to where its last checkpoint stands; gives the bytes of metrics.jsonl that belong to it."""
        self.parts.put_back(state, self.file("last"))
        self.steps_done, self.spent = state["step"], Spent.of(state)
        if state["best"]:
            self.best_states = {name: bests[name] for name in state["best"]}
        return state["metrics_offset"]

    # What it is asked about itself

    def spent_so_far(self) -> Spent:
        """Seconds and memory of this stage, earlier sessions of the run included."""
        waited = self._loader.wait_seconds if self._loader else 0.0
        peak = max(self.spent.peak_memory, peak_memory(self.device)) if self._loader else self.spent.peak_memory
        return Spent(self.spent.seconds, self.spent.waited + waited, self.spent.validation_seconds, peak)

    def waited(self) -> float:
        """Seconds for which training waited for data, earlier sessions of this run included."""
        return self.spent_so_far().waited

    def names_of(self, step: int) -> list[str]:
        """The cases in the batch of a step (which follow from the step alone)."""
        assert self._loader is not None
        labeled, unlabeled = self._loader.sampler.at(step)
        rows = np.concatenate([self._loader.labeled[labeled], self._loader.unlabeled[unlabeled]])
        return [self._loader.store.names[row] for row in rows]

    def _rates(self) -> dict[str, float]:
        rates = {f"lr_{name}": one.optimizer.param_groups[0]["lr"] for name, one in self.parts.optimizers.items()}
        return {**rates, "wait_share": self.waited() / max(self.spent.seconds, 1e-9)}

    def _check_plateaus(self) -> None:
        """Raises `UserError` for an optimizer whose rate would follow a score that nobody measures."""
        scored = [name for name, one in self.evaluated.items() if isinstance(one, nn.Module)]
        deaf = [name for name, one in self.parts.optimizers.items() if one.plateau and name not in scored]
        if deaf:
            raise UserError(
                f"--schedule plateau: the optimizer {' and '.join(deaf)} would keep its rate for ever, since it follows the score of an "
                f"evaluated network of its own name, and evaluated are {', '.join(scored) or 'none'}. Choose another --schedule; in the "
                "script: run.optimizer(..., schedule=...), or give optimizer and evaluated network one name.")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """While open, a loss that is not finite ends the run with the cases of the batch and the way on."""
        try:
            yield
        except NotFinite as error:
            stage = f"{self.name}, " if self.name else ""
            raise UserError(f"{stage}{error}.\nCases of the batch: {', '.join(self.names_of(error.step))}\n"
                            f"The last good checkpoint is {self.file('last')}. Lower --base_lr, or look at these images; --fresh begins "
                            "anew.", code=3) from error
