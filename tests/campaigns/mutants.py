"""The code changed where it decides numbers, one place at a time, and the tests of that place run until one fails.

A mutant is a module with one operator, constant, comparison or call changed. It is "caught" when a test fails or the module cannot be
loaded, "timed out" when the tests take more than `LIMIT_S` of processor time (caught too), and "survived" when all pass.

Each mutant is written into a copy of code/ and tests/ and tested in a fork of a process that has loaded the libraries and nothing of ours.
"""
from __future__ import annotations

import ast
import compileall
import copy
import os
import random
import resource
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from campaigns.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 180
LIBRARIES = ("torch", "numpy", "numba", "scipy.ndimage", "scipy.stats", "h5py", "nibabel", "PIL.Image", "pytest", "hypothesis", "tqdm",
             "tyro", "tensorboardX", "matplotlib.pyplot", "jinja2", "skimage.measure", "medpy.metric.binary")


def golden(*names: str) -> tuple[str, ...]:
    """The tests of golden files."""
    return tuple(f"tests/test_parity.py::test_golden_file[{name}]" for name in names)


def files(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{name}.py" for name in names)


TESTS: dict[str, tuple[str, ...]] = {
    "losses/overlap.py": (*golden("dice_loss", "dice_loss_binary", "supervised_loss", "simeps_dice", "desco_3d", "abd_bcp_2d"),
                          *files("methods", "desco", "semsim", "copy_paste")),
    "losses/consistency.py": (*golden("softmax_consistency", "rdrop_2d", "dssn_city", "pgfanet_consistency", "crossmatch_acdc"),
                              *files("methods", "two_networks", "uncertainty", "industry")),
    "losses/supervised.py": (*golden("supervised_loss", "ohem_ce", "bcp_acdc", "dssn_voc"), *files("methods", "photographs", "unimatch")),
    "losses/uncertainty.py": (*golden("entropy", "admt_2d", "uamt_2d"), *files("methods", "two_networks")),
    "losses/similarity.py": (*golden("simeps_similarity", "simeps_four"), *files("methods")),
    "losses/pseudo_labels.py": (*golden("fixmatch_standard_2d", "unimatch", "unimatch_fixmatch", "unimatch_medical", "bcp_masks",
                                        "dssn_voc", "sti_stage4"),
                                *files("fixmatch", "unimatch", "copy_paste", "self_training", "industry", "federated")),
    "losses/mixtures.py": (*golden("bcp_acdc", "bcp_la", "abd_bcp_2d"), *files("copy_paste")),
    "losses/class_weights.py": (*golden("dhc_weights", "dhc_losses"), *files("dhc", "c3ps")),
    "losses/contrast.py": (*golden("simeps_reco"), *files("ranked_features", "industry")),
    "losses/correlation.py": (*golden("caml_la", "patchcl_loss", "caml_attention"), *files("caml", "patchcl")),
    "losses/semantic.py": files("semsim"),
    "losses/class_similarity.py": (*golden("sti_prototype", "sti_selection", "sti_stage4", "cisc_prototype", "cisc_stage4"),
                                   *files("self_training")),
    "losses/prototypes.py": (*golden("scpnet_2d", "acmt_prototype_3d"), *files("scpnet")),
    "losses/ambiguity.py": (*golden("acmt_entropy_3d", "acmt_label_errors_3d", "acmt_model_uncertainty_3d", "acmt_prototype_3d",
                                    "acmt_thresholds"), *files("ambiguity")),
    "losses/evidential.py": files("evidential"),
    "metrics/scores.py": (*files("metrics"), *golden("metrics_conventions", "miou", "simeps_metrics"), *files("inference")),
    "metrics/overlap.py": (*files("metrics"), *golden("metrics_binary_2d", "miou"), *files("inference")),
    "metrics/surface.py": (*files("metrics"), *golden("metrics_binary_2d", "metrics_binary_3d")),
    "metrics/surface_statistics.py": (*files("metrics"), *golden("metrics_binary_2d", "metrics_binary_3d")),
    "metrics/defects.py": (*files("metrics", "inference"), *golden("simeps_metrics")),
    "metrics/components.py": files("components", "objects"),
    "metrics/objects.py": files("objects", "object_scores"),
    "metrics/instances.py": files("objects", "object_scores"),
    "dataloaders/splits/draws.py": files("splits", "published", "splits_file", "cross_val_dev", "federated"),
    "dataloaders/splits/folds.py": files("splits", "splits_file"),
    "dataloaders/splits/split.py": files("splits", "cross_val_dev", "photographs", "splits_file", "groups"),
    "dataloaders/splits/cross_val_dev.py": files("cross_val_dev", "splits"),
    "dataloaders/splits/sites.py": files("federated"),
    "dataloaders/splits/self_training.py": files("self_training"),
    "dataloaders/batches/sampling.py": (*files("sampling", "federated"), *golden("two_stream_sampler"), *files("self_training")),
    "engine/schedules.py": (*files("schedules"), *golden(
        "ramps", "lr_schedules", "consistency_weight", "dhc_schedules", "mcf_schedules", "mlbseg_schedules", "cobionet_schedules",
        "crossmatch_schedules", "pgfanet_schedule", "stpp_schedule", "mlbseg_meta"), *files("methods", "step", "mlbseg")),
    "inference/scoring.py": files("inference"),
    "inference/windows.py": (*files("sliding_window", "inference"), *golden("sliding_window_2d", "sliding_window_3d")),
    "networks/averaging.py": (*golden("ema", "admt_ema"), *files("methods", "federated")),
    "reporting/statistics.py": files("report_statistics", "report"),
}
"""For each module that decides numbers the tests of it, those that cost least first."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change: the `number`-th of its `site`-th node."""

    module: str
    site: int
    number: int
    line: int
    change: str


    def name(self) -> str:
        return f"{self.module}:{self.line} {self.change}"

    def source(self) -> str:
        """The module as it is with the change."""
        tree = ast.parse((ROOT / "code" / self.module).read_text(encoding="utf-8"))
        place = next(node for k, node in enumerate(sites(tree)) if k == self.site)
        _, new = list(changes(place))[self.number]
        return ast.unparse(ast.fix_missing_locations(Put(place, new).visit(tree))) + "\n"


OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or,
    ast.Or: ast.And}
UNCHANGED = (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.AnnAssign)
"""Of these nothing is changed: sentences, declarations."""
KEPT_CALLS = ("isinstance", "len", "range", "zip", "enumerate", "super", "list", "tuple", "dict", "set", "str", "int", "float", "frozenset",
              "print", "getattr", "hasattr", "iter", "next", "sorted", "repr", "property", "field", "dataclass", "TypeVar", "no_grad",
              "detach", "contiguous", "lru_cache", "cast", "fields", "ascontiguousarray", "asarray", "items", "keys",
              "values", "append", "tolist")
"""Calls that are not dropped: without most of them nothing would run, and some only save work."""


def sites(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that may be changed."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, UNCHANGED):
            if not isinstance(node, ast.AnnAssign) or node.value is None:
                continue
            waiting.append(node.value)
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [*node.body, *node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]
            continue
        if isinstance(node, ast.ClassDef):
            waiting += node.body
            continue
        yield node
        waiting += list(ast.iter_child_nodes(node))


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(what is changed, the node that takes its place)."""
    def other(**fields: object) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in OPERATORS or isinstance(node, ast.BoolOp):
        new = OPERATORS[type(node.op)]
        yield f"{type(node.op).__name__} -> {new.__name__}", other(op=new())
    elif isinstance(node, ast.Compare):
        for k, operator in enumerate(node.ops):
            new = OPERATORS[type(operator)]
            yield f"{type(operator).__name__} -> {new.__name__}", other(ops=[*node.ops[:k], new(), *node.ops[k + 1 :]])
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield f"{type(node.op).__name__} dropped", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} -> {not node.value}", other(value=not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        new_value = node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0
        yield f"{node.value} -> {new_value}", other(value=new_value)
    elif isinstance(node, ast.IfExp):
        yield "branches exchanged", other(body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
        yield "condition negated", other(test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        if name in KEPT_CALLS or name.endswith("Error") or (name[:1].isupper() and isinstance(node.func, ast.Name)):
            return
        library = isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in ("np", "torch", "F", "math", "stats")
        if isinstance(node.func, ast.Attribute) and not library and not isinstance(node.func.value, ast.Constant):
            yield f".{name}() dropped", node.func.value
        elif node.args and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
            yield f"{name}() dropped", node.args[0]


class Put(ast.NodeTransformer):
    """A tree with one node in the place of another."""

    def __init__(self, old: ast.AST, new: ast.AST):
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def mutants_of(module: str) -> list[Mutant]:
    """Every one of a module of code/."""
    tree = ast.parse((ROOT / "code" / module).read_text(encoding="utf-8"))
    found = []
    for site, node in enumerate(sites(tree)):
        for number, (change, _) in enumerate(changes(node)):
            line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", 0)
            found.append(Mutant(module, site, number, line, f"column {column}: {change}"))
    return list({mutant.name: mutant for mutant in found}.values())


def chosen(count: int, seed: int = 0) -> list[Mutant]:
    """`count` mutants, dealt out to the modules by how many each has, in an order drawn once."""
    every = {module: mutants_of(module) for module in TESTS}
    whole, draw = sum(map(len, every.values())), random.Random(seed)
    picked = []
    for mutants in every.values():
        picked += draw.sample(mutants, min(len(mutants), max(1, round(count * len(mutants) / whole))))
    draw.shuffle(picked)
    # In hundreds, so that one that is stopped has seen all modules, and in these by module, whose kernels are compiled anew each time.
    return [mutant for k in range(0, len(picked), 100) for mutant in sorted(picked[k : k + 100], key=lambda one: one.module)]


class Fast:
    """A plugin of pytest: tests that start processes, train for long, or draw many examples are left out or made shorter."""

    def pytest_collection_modifyitems(self, items: list) -> None:
        slow = {"bench", "commands", "again"}
        items[:] = [item for item in items
                    if not slow & set(item.fixturenames) and not any(word in item.name for word in ("learnt", "memory"))]


class Bed:
    """A copy of code/ and tests/ in which one module at a time is another one."""

    def __init__(self, place: Path):
        self.place = place
        shutil.rmtree(place, ignore_errors=True)
        for name in ("code", "tests", "docs", "data"):
            shutil.copytree(ROOT / name, place / name, symlinks=True)
        for name in ("pyproject.toml", "README.md", "constraints.txt", "requirements.txt"):
            shutil.copy(ROOT / name, place / name)
        for name in LIBRARIES:
            try:
                import_module(name)
            except ImportError:
                continue
        compileall.compile_dir(place, quiet=2)
        import torch
        torch.set_num_threads(1)

    def tested(self, tests: tuple[str, ...]) -> tuple[str, str]:
        """(caught, survived or timed out; the end of what pytest said)."""
        out = self.place / "out.txt"
        child = os.fork()
        if child == 0:
            self._run(tests, out)
        _, status, _ = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        said = out.read_text(errors="replace")[-1200:]
        return ("survived" if code == 0 else "timed out" if code == -signal.SIGXCPU else "caught"), said

    def _run(self, tests: tuple[str, ...], out: Path) -> None:
        """In a child: pytest on some tests; never returns."""
        code = 3
        try:
            handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(handle, number)
            os.chdir(self.place)
            sys.path[:] = [str(self.place / "code"), str(self.place / "tests"), *(
                path for path in sys.path if not path.startswith(str(ROOT)) or "site-packages" in path)]
            for name in [name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(f"{ROOT}/tests")
                         or str(getattr(module, "__file__", "")).startswith(f"{ROOT}/code")]:
                del sys.modules[name]
            sys.dont_write_bytecode = True
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
            import pytest
            code = int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests], plugins=[Fast()]))
        finally:
            sys.stdout.flush()
            os._exit(code)

    def put(self, module: str, source: str) -> None:
        """A module's source; what is compiled of it is removed."""
        path = self.place / "code" / module
        path.write_text(source, encoding="utf-8")
        for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            compiled.unlink()


def run(place: Path, ledger: Ledger, count: int, only: str = "") -> None:
    """Tests `count` mutants (those of modules that hold `only` in their name); first whether the tests pass on the code as it is."""
    todo = [mutant for mutant in chosen(count) if mutant.name not in ledger.found and only in mutant.module]
    if not todo:
        return
    bed = Bed(place)
    for module in sorted({mutant.module for mutant in todo}):
        as_it_is = (ROOT / "code" / module).read_text(encoding="utf-8")
        key = f"{module} as it is"
        if ledger.found.get(key, {}).get("outcome") == "passes":
            continue
        bed.put(module, ast.unparse(ast.parse(as_it_is)) + "\n")
        outcome, said = bed.tested(TESTS[module])
        assert outcome == "survived", f"{module}: the tests fail on the code as it is:\n{said}"
        ledger.add(key, "as it is", "passes", said[-200:])
        bed.put(module, as_it_is)
    for mutant in todo:
        as_it_is = (bed.place / "code" / mutant.module).read_text(encoding="utf-8")
        bed.put(mutant.module, mutant.source())
        outcome, said = bed.tested(TESTS[mutant.module])
        bed.put(mutant.module, as_it_is)
        ledger.add(mutant.name, mutant.module.rpartition("/")[0], outcome, said)
