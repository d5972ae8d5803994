"""What a run stands on: data set, split, device, its folder and lock, and whether what lies there may be gone on with."""
from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import sys
import time
from typing import Any

from dataloaders import catalog
from dataloaders.batches.store import Store, build_store
from dataloaders.description import Case, Item
from dataloaders.errors import Problems, UserError
from dataloaders.splits.protocols import make_split
from engine.options import HARMLESS, Options, Resolved
from losses.ranks import world
from storage import checkpoint, provenance
from storage.checkpoint import write_json
from storage.folders import model_folder, run_name
from storage.logbook import Lock
from system import distributed
from system.devices import choose_device, keep_freed_memory, set_determinism
from system.ending import Leave
from val_2D import Predictor, Summary, Validator
from val_3D import VolumeValidator, window_stride

ROOM = 64 * 2**20
"""Bytes that must be free before the first step; the first checkpoint, written at step 0, is the real test."""


class Session:
    """Everything of a run but its networks and its loop. Opening it checks all that can be checked before the first step."""

    def __init__(self, options: Options):
        self.options = options
        self.resolved: Resolved = options.resolved  # type: ignore[attr-defined]
        self.started = time.time()
        self.device = choose_device(options.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        set_determinism(options.deterministic)
        resolved = self.resolved
        print(f"{resolved.method} on {resolved.data.name}: {resolved.why}", flush=True)
        if resolved.data.note:
            print(resolved.data.note, flush=True)
        self.source = distributed.in_turn(lambda: catalog.open_source(resolved.data, resolved.root, options))
        self.data = self.source.data
        self.split = make_split(
            self.source, options.protocol, options.fold, options.folds, options.split_seed, options.labeled_num,
            options.labeled_choice, options.labeled_seed, hold_out=options.schedule == "plateau",
        )
        remarks = [*getattr(self.source, "remarks", []), *self.split.remarks]
        for remark in remarks:
            print(remark, flush=True)
        self.remarks = [*([resolved.data.note] if resolved.data.note else []), *remarks]
        self.folder = model_folder() / run_name(options, resolved)
        self.config = self._config()
        self.changes: list[str] = []
        self.lock = distributed.on_first(self._claim)
        self.store: Store | None = None
        self._labels_alone = False
        self.indices: tuple[list[int], list[int]] = ([], [])
        self.validator = self._validator() if self.split.val else None

    def _validator(self) -> Validator | VolumeValidator:
        options, cases = self.options, distributed.dealt(self.split.val)
        if self.data.dimensions == 2:
            return Validator(self.source, cases, options.patch_size, self.device)
        return VolumeValidator(self.source, cases, options.patch_size, window_stride(options.stride, options.patch_size), self.device)

    def score(self, predictor: Predictor) -> Summary:
        """The scores of a predictor on the validation cases, the same on every process; each predicts its share of them."""
        assert self.validator is not None
        return self.validator.summary(distributed.collected(self.validator.rows(predictor)))

    def say_plan(self, say: Any, labeled_only: bool) -> None:
        """The lines that tell what will be trained, on what, and where it lies."""
        options, split = self.options, self.split
        things = "volumes" if self.data.dimensions == 3 else "images"
        counted = {"patient": "patients", "volume": "volumes"}.get(split.unit, things)
        labeled = len({case.group for case in split.labeled}) if counted == "patients" else len(split.labeled)
        pool = {case.group for case in (*split.labeled, *split.unlabeled)} if counted == "patients" else (*split.labeled, *split.unlabeled)
        say(f"{split.name} split: {labeled} of {len(pool)} training {counted} labelled, {len(split.val)} cases for validation.")
        count, rest = len(self.indices[0]), len(self.indices[1])
        rows = f"batch {options.batch_size}, all labelled (--labeled_bs is not used)" if labeled_only else (
            f"batch {options.labeled_bs} labelled + {options.batch_size - options.labeled_bs} unlabelled")
        patch = "x".join(map(str, options.patch_size))
        assert self.store is not None
        say(f"{count} labelled and {rest} unlabelled {things} ({self.store.memory / 2**20:.0f} MiB, {self.store.place}); {rows}, "
            f"{patch}, {options.max_iterations} steps on {provenance.machine(self.device)['device'] or self.device.type}.")
        if not labeled_only and count < options.labeled_bs:
            say(f"There are fewer labelled {things} ({count}) than labelled rows in a batch ({options.labeled_bs}): rows repeat.")
        if world() > 1:
            say(f"{world()} processes share each batch and the validation cases; batch norm sees "
                + ("the rows of all." if options.sync_bn else "a process's own rows (--sync_bn: those of all)."))
        elif options.sync_bn:
            say("--sync_bn changes nothing with one process; torchrun --nproc_per_node N starts several.")
        say(f"Folder: {self.folder}")

    def load_data(self, remark: Any, labeled_only: bool) -> Store:
        """Reads (or maps) all training images and the validation cases, and checks them; all problems are raised together.

        Of several processes the first reads, and writes the cache; the others map it.
        """
        if self.store is None or (self._labels_alone and not labeled_only):  # a stage on labels alone may precede the main one
            self._labels_alone = labeled_only
            self.store = distributed.in_turn(lambda: self._read(remark, labeled_only))
        return self.store

    def _read(self, remark: Any, labeled_only: bool) -> Store:
        try:
            labeled = self.source.items(list(self.split.labeled))
            unlabeled = [] if labeled_only else self.source.items(list(self.split.unlabeled))
            marks = [True] * len(labeled) + [False] * len(unlabeled)
            store = build_store(self.source, [*labeled, *unlabeled], marks, self.options.cache, self.device,
                                progress=distributed.first(), remark=remark)
            self.indices = (list(range(len(labeled))), list(range(len(labeled), len(marks))))
            if self.validator is not None:
                self.validator.load()
        except UserError:
            self._raise_all_problems(labeled_only)
            raise
        return store

    def _raise_all_problems(self, labeled_only: bool) -> None:
        """Reads every file of the run once more, and raises all that is wrong at once."""
        problems = Problems()

        def look(of: Case | Item, with_label: bool) -> None:
            try:
                self.source.image(of)
                if with_label:
                    self.source.label(of)
            except UserError as error:
                problems.add(error)

        for cases, with_label in ((self.split.labeled, True), (() if labeled_only else self.split.unlabeled, False)):
            for case in cases:
                try:
                    items = self.source.items([case])
                except UserError as error:
                    problems.add(error)
                    continue
                for item in items:
                    look(item, with_label)
        for case in self.split.val:
            look(case, True)
        problems.raise_any(f"{self.data.name} in {self.source.root}")

    def _config(self) -> dict[str, Any]:
        options = {f.name: getattr(self.options, f.name) for f in dataclasses.fields(self.options) if f.name not in HARMLESS}
        options["device"] = self.device.type
        resolved, split = self.resolved, self.split

        def names(cases: tuple[Case, ...]) -> list[str]:
            return [case.name for case in cases]

        return {
            "schema": 1,
            "method": resolved.method,
            "script": resolved.script.name,
            "data_set": self.data.name,
            "dimensions": self.data.dimensions,
            "root": str(resolved.root.resolve()),
            "options": json.loads(json.dumps(options, default=str)),
            "split": {"name": split.name, "labeled": names(split.labeled), "unlabeled": len(split.unlabeled), "val": names(split.val),
                      **({"selection": "test"} if split.selection == "test" else {}),
                      "unlabeled_digest": hashlib.sha256("\n".join(names(split.unlabeled)).encode()).hexdigest()[:16]},
            "remarks": self.remarks,
            "code": provenance.code_digest(resolved.script),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "machine": provenance.machine(self.device),
            "processes": world(),
            "command": " ".join(sys.argv),
        }

    def differences(self, old: dict[str, Any]) -> list[str]:
        """What of an earlier configuration is not as now, a line each; the code's digest is not among them."""
        lines = []
        for key in ("method", "data_set", "root"):
            if old.get(key) != self.config[key]:
                lines.append(f"{key}: {old.get(key)} then, {self.config[key]} now")
        for key in sorted(set(old.get("options", {})) | set(self.config["options"])):
            now = self.config["options"].get(key)
            # An option that came after that run was made had the value that is the default now.
            then = old.get("options", {}).get(key, self.resolved.defaults.get(key))
            if then != now:
                lines.append(f"--{key}: {then} then, {now} now")
        if old.get("split") != self.config["split"]:
            lines.append("the cases of the split (labelled, unlabelled or validation) are not the same")
        return lines

    def _claim(self) -> Lock:
        """Makes or takes over the run's folder.

        Raises `Leave` where it is finished, `UserError` for another run's folder, a lock, a full disk.
        """
        folder, options = self.folder, self.options
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: cannot be made ({error.strerror}). Mend the permissions of {model_folder()}.") from error
        if shutil.disk_usage(folder).free < ROOM:
            raise UserError(f"{folder}: less than {ROOM // 2**20} MiB are free on this disk. Make room before training.")
        lock = Lock(folder)
        if options.fresh and (folder / "config.json").exists():
            stem = aside = folder.with_name(f"{folder.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            for count in itertools.count(2):
                if not aside.exists():
                    break
                aside = stem.with_name(f"{stem.name}-{count}")
            lock.release()
            folder.rename(aside)
            print(f"The old run was moved to {aside}", flush=True)
            folder.mkdir(parents=True)
            lock = Lock(folder)
        if (folder / "config.json").exists():
            self._compare()
        try:
            write_json(folder / "config.json", self.config)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written ({error.strerror}). Make room, or mend its permissions.") from error
        return lock

    def _untrained(self) -> bool:
        """True, and the folder cleared of its first checkpoint, where no step was trained: a script that failed at once may be mended."""
        path = self.folder / "last.pt"
        files = {file.name for file in self.folder.glob("*.pt")}
        if files - {path.name, checkpoint.previous_of(path).name}:
            return False
        try:
            if path.name in files and checkpoint.load(path)["step"]:
                return False
        except UserError:
            return False
        for file in (path, checkpoint.previous_of(path)):
            file.unlink(missing_ok=True)
        return True

    def _remark_processes(self, old: dict[str, Any], status: dict[str, Any]) -> None:
        """Says, in every result too, that a run goes on with another number of processes than it had."""
        before = old.get("processes_before", [])
        if old.get("processes", 1) != world() and status.get("step"):
            before = [*before, [old.get("processes", 1), status["step"]]]
        if before:
            self.config["processes_before"] = before
            history = ", ".join(f"{count} until about step {step}" for count, step in before)
            self.remarks.append(f"Number of processes: {history}, then {world()}. Not bitwise what one number throughout would give.")
            print(self.remarks[-1], flush=True)

    def _compare(self) -> None:
        path = self.folder / "config.json"
        try:
            old = json.loads(path.read_text())
            status = json.loads((self.folder / "status.json").read_text()) if (self.folder / "status.json").exists() else {}
        except ValueError as error:
            sentence = f"{path}: this is no readable JSON ({error}). Begin anew with --fresh (the folder is moved aside)."
            raise UserError(sentence, 4) from error
        done = status.get("state") == "done"
        lines = self.differences(old)
        code_changed = old.get("code") != self.config["code"]
        if code_changed and not done:
            lines.append(f"the code that shapes a run: {old.get('code')} then, {self.config['code']} now")
        if lines and not done and self._untrained():
            return
        if lines and not (self.options.accept_changes and not done):
            raise UserError("\n".join([
                f"{self.folder}: a {'finished' if done else 'begun'} run with another configuration lies here:",
                *(f"  - {line}" for line in lines),
                "Begin anew with --fresh (the old folder is moved aside), choose another place by --exp NAME"
                + (", or go on all the same with --accept_changes." if not done else "."),
            ]))
        if done:
            made = f" It was made by code {old.get('code')}, which has changed since." if code_changed else ""
            raise Leave(f"This run is finished: {self.folder}{made}\n"
                        f"Test it: python code/test_{self.data.dimensions}D.py --run {self.folder}", 0, "done")
        self._remark_processes(old, status)
        # Accepted changes are said in every result of this run from here on.
        self.config["changes"] = self.changes = [*old.get("changes", []), *lines]
        if code_changed or "first_code" in old:
            self.config["first_code"] = old.get("first_code", old.get("code"))
