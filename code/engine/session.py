"""What a run stands on: data set, split, device, its folder and configuration."""
from __future__ import annotations

import hashlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from command_line.declarations import fate_of
from command_line.options import FAST, Options
from dataloaders import catalog
from dataloaders.batches.cache import cache_folder
from dataloaders.description import Case
from dataloaders.errors import UserError
from dataloaders.splits.split import SplitRequest, make_split
from engine import changes, earlier
from engine.claim import Claim, claim, run_name
from engine.feeding import Training
from inference import Predictor, Summary, Validator, inference_of
from losses.ranks import world
from storage import provenance
from storage.checkpoint import write_json
from storage.folders import model_folder
from storage.sealed import sealed
from system import distributed
from system.devices import check_precision, choose_device, keep_compiled, keep_freed_memory, set_determinism


def digest_of_names(names: list[str]) -> str:
    """16 digits that tell one list of names from another; names that are no UTF-8 count too."""
    return hashlib.sha256("\n".join(names).encode(errors="backslashreplace")).hexdigest()[:16]


class Session:
    """Everything of a run but its networks and its loops. Opening it checks all that can be checked before the first step."""

    def __init__(self, options: Options):
        self.options = options
        self.resolved = options.resolved
        self.started = time.time()
        self.device = choose_device(options.device)
        check_precision(options.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        set_determinism(options.deterministic, self.device, options.fast)
        if options.compile:
            keep_compiled(cache_folder() / "compiled")
        resolved = self.resolved
        print(f"{resolved.method} on {resolved.data.name}: {resolved.why}", flush=True)
        if resolved.data.note:
            print(resolved.data.note, flush=True)
        self.source = distributed.in_turn(lambda: catalog.open_source(resolved.data, resolved.root, vars(options)))
        self.data = self.source.data
        self.split = make_split(self.source, SplitRequest.of(vars(options)))
        remarks = [*self.source.remarks, *self.split.remarks]
        if options.annotation == "orthogonal":
            remarks.append("Of each labelled volume two slices at right angles are annotated "
                           f"({options.annotated_slices}), no other voxel.")
        self.earlier = earlier.read(options.init_run) if options.init_run else None
        if self.earlier:
            remarks.append(self.earlier.said([case.name for case in self.split.val], self.data.classes))
        if options.fast:
            remarks.append("--fast: " + ", ".join(f"--{name} {getattr(options, name)}" for name in FAST) + ", TF32 in matrix products; "
                           "a run without it does not give these numbers to the last digit.")
        for remark in remarks:
            print(remark, flush=True)
        self.remarks = [*([resolved.data.note] if resolved.data.note else []), *remarks]
        self.folder = model_folder() / run_name(options, self.split.name)
        self.config = self._config()
        self.claim: Claim | None = distributed.on_first(
            lambda: claim(self.folder, self.config, resolved.defaults, options.fresh, options.accept_changes))
        self.inference = inference_of(self.data, options.patch_size, options.stride, self.device)
        self.validator = Validator(self.source, distributed.dealt(self.split.val), self.inference) if self.split.val else None
        self.training = Training(self.source, self.split, options, self.device, self._check_validation)
        self._plan_said = False

    @property
    def things(self) -> str:
        """What a training image is called."""
        return "volumes" if self.data.dimensions == 3 else "images"

    @property
    def device_name(self) -> str:
        return str(provenance.machine(self.device)["device"] or self.device.type)

    def release(self) -> None:
        """Gives the folder back."""
        if self.claim:
            self.claim.lock.release()

    def _check_validation(self) -> None:
        if self.validator is not None:
            self.validator.check()

    def compare_files(self, stage: str, files: Sequence[Path], begun: bool) -> None:
        """Raises `UserError` where files that a stage is fed are not those with which the run began, unless that is accepted; notes them.

        `begun`: whether the stage has made a step.
        """
        then, now = changes.remembered(self.folder), changes.states(self.source.root, files)
        lines, others = changes.differences(then, now, stage, begun)
        if lines and (begun or any(name != stage for name in then)):
            if not self.options.accept_changes:
                raise UserError(changes.refusal(self.folder, lines))
            assert self.claim is not None
            self.claim.changes += [f"data: {line}" for line in lines[: changes.SHOWN]]
            if len(lines) > changes.SHOWN:
                self.claim.changes.append(f"data: {len(lines) - changes.SHOWN} more files")
            self.config["changes"] = self.claim.changes
            write_json(self.folder / "config.json", sealed(self.config))
        elif others and begun:
            print(f"{len(others)} files of the data set ({others[0]}, ...) have the size and the time that they had, and are not the same "
                  "files: copied, or restored from an archive. Contents are not compared.", flush=True)
        if then.get(stage) != now:
            changes.remember(self.folder, {**then, stage: now})

    def score(self, predictor: Predictor) -> Summary:
        """The scores of a predictor on the validation cases, the same on every process; each predicts its share of them."""
        assert self.validator is not None
        return self.validator.summary(distributed.collected(self.validator.rows(predictor)))

    def say_plan(self, say: Callable[[str], object]) -> None:
        """The lines that tell what will be trained, on what, and where it lies; once, before the first stage."""
        if self._plan_said:
            return
        self._plan_said = True
        split = self.split
        counted = {"patient": "patients", "volume": "volumes"}.get(split.unit, self.things)
        labeled = len({case.group for case in split.labeled}) if counted == "patients" else len(split.labeled)
        pool = {case.group for case in (*split.labeled, *split.unlabeled)} if counted == "patients" else (*split.labeled, *split.unlabeled)
        say(f"{split.name} split: {labeled} of {len(pool)} training {counted} labelled, {len(split.val)} cases for validation.")
        if world() > 1:
            say(f"{world()} processes share each batch and the validation cases; batch norm sees "
                + ("the rows of all." if self.options.sync_bn else "a process's own rows (--sync_bn: those of all)."))
        elif self.options.sync_bn:
            say("--sync_bn changes nothing with one process; torchrun --nproc_per_node N starts several.")
        say(f"Folder: {self.folder}")

    def _config(self) -> dict[str, Any]:
        fates = fate_of(type(self.options))
        options = {name: getattr(self.options, name) for name, fate in fates.items() if not fate.harmless}
        options["device"] = self.device.type
        resolved, split = self.resolved, self.split

        files = provenance.code_files(resolved.script)

        def names(cases: tuple[Case, ...]) -> list[str]:
            return [case.name for case in cases]

        return {
            "schema": 1,
            "method": resolved.method,
            "script": resolved.script.name,
            "data_set": self.data.name,
            "dimensions": self.data.dimensions,
            "root": str(resolved.root.resolve()),
            **({"white": self.data.white} if self.data.white else {}),
            **({"classes": list(self.data.classes)} if self.data.own else {}),
            **({"init": {"run": str(self.earlier.folder), "labeled": sorted(self.earlier.labeled)}} if self.earlier else {}),
            "options": json.loads(json.dumps(options, default=str)),
            "split": {"name": split.name, "labeled": names(split.labeled), "unlabeled": len(split.unlabeled), "val": names(split.val),
                      **({"selection": "test"} if split.selection == "test" else {}),
                      "unlabeled_digest": digest_of_names(names(split.unlabeled))},
            "remarks": self.remarks,
            "code": provenance.digest_of(files),
            "code_files": files,
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(self.device),
            "processes": world(),
            "command": shlex.join(sys.argv),
        }
