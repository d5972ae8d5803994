"""The loop's other half: what `run.update`, `run.after_step` and the rest do for a script (see code/README.md)."""
from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

import networks
from dataloaders.batches.loader import Batch, Loader
from dataloaders.errors import UserError
from engine import pretrained, saving
from engine.compiling import compiled
from engine.monitor import Monitor
from engine.optimizers import ScheduledOptimizer, build_optimizer
from engine.session import Session
from engine.sizes import check_network
from losses import ranks
from networks.folding import for_inference
from networks.sync_norm import synchronise
from system import distributed, faults
from system.signals import Signals

Terms = Mapping[str, Tensor]


class Stateful(Protocol):
    """Anything with a state that a checkpoint can hold: plain values and tensors."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Any) -> Any: ...


def seed_of(*parts: object) -> int:
    """A 63-bit seed from what it is for; different parts never share a stream."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()) >> 1


class Stage:
    """One training loop: its networks, optimizers, kept state, step count, rate and best. A run is a stage without a name."""

    def __init__(self, session: Session, monitor: Monitor, name: str, iterations: int):
        self.rank, self.world = distributed.rank(), ranks.world()
        self.session, self.options, self.name, self.iterations = session, session.options, name, iterations
        self.monitor, self.device = monitor, session.device
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, ScheduledOptimizer] = {}
        self.kept: dict[str, Any] = {}
        self.evaluated: dict[str, nn.Module | str] = {}
        self.quote_by_validation, self.quoted = False, ""
        self.best_states: dict[str, dict[str, Any]] = {}
        self.val_every = session.options.val_every
        self.steps_done = 0
        self.train_seconds = 0.0
        self.wait_seconds = 0.0
        self._loader: Loader | None = None
        self._signals: Signals | None = None
        self._step_started = 0.0
        self._modules: list[nn.Module] = []

    # What a script declares before its loop

    def network(self, role: str, model: str | None = None, several_heads: bool = False, **arguments: Any) -> nn.Module:
        """Builds a network on the device; its initial weights follow from --seed and `role`.

        `model` other than --model, and further `arguments` of its builder: networks of the method's own. `several_heads`: gives a tuple.
        """
        torch.manual_seed(seed_of(self.options.seed, self.name, "weights", role))
        given: dict[str, Any] = {"in_channels": self.session.data.channels, "num_classes": self.session.data.num_classes,
                                 "dropout": self.options.dropout}
        taken = networks.arguments(model or self.options.model)
        given = {name: value for name, value in given.items() if name in taken}
        try:
            network = networks.build(model or self.options.model, **(given | arguments))
        except ValueError as error:
            raise UserError(f"--model {model or self.options.model}: {error}.") from error
        check_network(model or self.options.model, network, self.session.data, self.options, several_heads)
        for line in pretrained.prepare(network, role, self.options):
            self.monitor.say(line)
        network = self.shared(network).to(self.device)
        if self.session.data.dimensions == 2:
            network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.networks[role] = network
        return network

    def shared(self, network: nn.Module) -> nn.Module:
        """A network as several processes train it: with --sync_bn, batch norm over the rows of all."""
        return synchronise(network) if self.options.sync_bn and self.world > 1 else network

    def keep(self, name: str, thing: Any) -> Any:
        """Anything with state_dict and load_state_dict (a teacher, a policy, a queue): saved and restored with the rest."""
        self.kept[name] = thing
        return thing

    def optimizer(self, name: str, modules: nn.Module | Sequence[tuple[nn.Module, float]], kind: str | None = None, lr: float | None = None,
                  schedule: str | None = None, betas: tuple[float, float] = (0.9, 0.999)) -> ScheduledOptimizer:
        """SGD (momentum 0.9, weight decay 1e-4) or Adam over a network, or over (network, factor of the rate) pairs.

        `kind`, `lr` and `schedule` default to the options. A plateau schedule follows the score of the evaluated network `name`.
        """
        pairs = [(modules, 1.0)] if isinstance(modules, nn.Module) else list(modules)
        groups = [{"params": [p for p in module.parameters() if p.requires_grad]} for module, _ in pairs]
        base, kind = lr or self.options.base_lr, kind or self.options.optimizer
        optimizer = build_optimizer(kind, groups, base, betas, self.device)
        factors, schedule = [factor for _, factor in pairs], schedule or self.options.schedule
        self.optimizers[name] = ScheduledOptimizer(optimizer, base, schedule, factors, self.options.patience)
        return self.optimizers[name]

    def compiled(self, losses: Callable[..., Terms]) -> Callable[..., Terms]:
        """`losses` as it is run: under --precision inside the networks, with --compile each as a graph, floats as tensors."""
        return compiled(losses, self.options.precision, self.options.compile, self.device)

    def evaluates(self, by_validation: object = False, **predictors: nn.Module | str) -> None:
        """What is validated and tested; the first named is the method's own number, or the best by validation.

        A network keeps its own best. A string combines all networks named here: "mean_logits".
        """
        self.evaluated, self.quote_by_validation = predictors, bool(by_validation)

    # The loop

    def batches(self, labeled_only: bool = False, augment: Any = None, recipe: str | None = None) -> Iterator[tuple[int, Batch]]:
        """(step, batch) from where the run stands to its end, all networks in train mode, rates set, draws of the step seeded.

        labeled_only: batches of labelled images alone. augment: a learned policy (sample, apply, update), kept by `keep`; then
        there is `batch.strong`. recipe: an augmentation in place of the data set's, a name in `augmentation.recipes.RECIPES`.
        """
        options, session, monitor = self.options, self.session, self.monitor
        pretrained.refuse_unused(self.networks, options.pretrained)
        store = session.load_data(monitor.say, labeled_only)
        if not self.name:
            session.say_plan(monitor.say, labeled_only)
        data = session.data
        with torch.random.fork_rng(devices=[]):
            loader = self._loader = Loader(
                store, *session.indices, batch_size=options.batch_size, labeled_bs=options.labeled_bs, patch_size=options.patch_size,
                recipe=recipe or (data.augmentation if augment is None else "none"), seed=seed_of(options.seed, self.name, "batches"),
                device=self.device, mean=data.mean, std=data.std, steps_per_epoch=options.steps_per_epoch,
                labeled_only=labeled_only, policy=augment, rank=self.rank, world=self.world, threads=distributed.threads(),
            )
        if options.schedule == "plateau" and options.steps_per_epoch is None:
            self.val_every = loader.steps_per_epoch
        saving.restore(self)
        if self.name and self.steps_done == self.iterations:
            loader.close()
            return
        monitor.begin(self, loader)
        self._modules = modules = [*self.networks.values(), *(kept for kept in self.kept.values() if isinstance(kept, nn.Module))]
        with Signals() as self._signals:
            self._step_started = time.perf_counter()
            try:
                for step, batch in loader.batches(self.steps_done, self.iterations):
                    torch.manual_seed(seed_of(options.seed, self.name, step, self.rank))
                    ranks.without_rows(batch.stands_in)
                    for module in modules:
                        module.train()
                    for optimizer in self.optimizers.values():
                        optimizer.set_rate(step, self.iterations)
                    faults.reach("step")
                    yield step, batch
            finally:
                loader.close()

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
        if self.world == 1:
            self.monitor.watch(terms, self.steps_done)
        parameters = [p for optimizer in several for p in optimizer.parameters]
        for optimizer in several:
            optimizer.optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        if self.world > 1:
            self.monitor.watch(terms, self.steps_done, partial(distributed.average_gradients, parameters))
        for optimizer in several:
            optimizer.optimizer.step()

    def after_step(self, step: int, terms: Terms) -> None:
        """Counts the step; logs, validates, saves and leaves when it is time for that."""
        self.steps_done = done = step + 1
        options, last = self.options, done == self.iterations
        now = time.perf_counter()
        self.train_seconds += now - self._step_started
        if self.world > 1:
            distributed.average_buffers(self._modules)
        self.monitor.step(self, terms, done)
        if self.session.validator is not None and (done % self.val_every == 0 or last):
            self.validate(done)
        assert self._signals is not None and self._loader is not None
        leaving = distributed.any_of(self._signals.wanted)
        if done % options.save_every == 0 or last or leaving:
            self.save()
        if leaving and not last:
            distributed.meet()  # whoever left before the file is whole would have torchrun end the writer
            self.monitor.interrupted(self)
        self._step_started = time.perf_counter()

    def validate(self, done: int) -> None:
        """Scores every evaluated network on the validation cases, keeps bests, and tells the plateau schedules."""
        validator, score = self.session.validator, self.session.score
        assert validator is not None
        self.monitor.check_finite(self)
        improved = False
        faults.reach("validation")
        for name, network in self.evaluated.items():
            if isinstance(network, str):
                continue
            network.eval()
            summary = self.monitor.scored(name, done, partial(score, self.predictor(network)))
            dice = summary["mean"]["dice"] or 0.0
            if name in self.optimizers and self.optimizers[name].plateau:
                self.optimizers[name].plateau.see(dice)  # type: ignore[union-attr]
            if dice > self.best_states.get(name, {}).get("score", -math.inf):
                improved = True
                state = {key: value.detach().cpu().clone() for key, value in network.state_dict().items()}
                self.best_states[name] = {"score": dice, "step": done, "network": network.spec, "state": state}
        first = next((network for network in self.evaluated.values() if isinstance(network, nn.Module)), None)
        if first is not None and distributed.first():
            self.monitor.picture_of(self.predictor(first), validator, done)
        if improved:
            self.save_best()
        faults.reach("validated")

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

        return predict

    # What lies on the disk

    def file(self, kind: str) -> Path:
        """Where a checkpoint lies: "last" or "best"."""
        return saving.file_of(self, kind)

    def save(self) -> None:
        """Writes last.pt, if every loss was finite; the one before stays as last.prev.pt."""
        self.monitor.check_finite(self)
        if distributed.first():
            saving.save_last(self)

    def save_best(self) -> None:
        """Writes best.pt: every evaluated network at its own best, and how they are combined."""
        if distributed.first():
            saving.save_best(self)

    def waited(self) -> float:
        """Seconds for which training waited for data, earlier sessions of this run included."""
        return self.wait_seconds + (self._loader.wait_seconds if self._loader else 0.0)

    def names_of(self, step: int) -> list[str]:
        """The cases in the batch of a step (which follow from the step alone)."""
        assert self._loader is not None
        labeled, unlabeled = self._loader.sampler.at(step)
        rows = np.concatenate([self._loader.labeled[labeled], self._loader.unlabeled[unlabeled]])
        return [self._loader.store.names[row] for row in rows]
