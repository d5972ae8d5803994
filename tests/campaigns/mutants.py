"""The code changed where it decides numbers, one place at a time, and the tests of that place run until one fails.

A mutant is a module with one operator, constant, comparison or call changed. It is "caught" when a test fails or the module cannot be
loaded, "timed out" when the tests take more than `LIMIT_S` of processor time (caught too), and "survived" when all pass; "equivalent" where
it is known why they must (`EQUIVALENT`).

Each mutant is put in place in a fork of a process that has run the tests once: function by function, so that nothing is loaded again.
Kernels that numba compiles are compiled again in it, and what was remembered by a cache is forgotten. Where nothing could be changed the
mutant counts as "untouched".
"""
from __future__ import annotations

import ast
import contextlib
import copy
import functools
import gc
import io
import os
import random
import resource
import signal
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher

from campaigns.ledger import Ledger

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60
GOOD = ("caught", "timed out", "passes", "untouched", "equivalent")
UNTOUCHED = 99
"""Exit code of a child in which nothing could be changed."""


def golden(*names: str) -> tuple[str, ...]:
    """The tests of golden files."""
    return tuple(f"tests/test_parity.py::test_golden_file[{name}]" for name in names)


def files(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{name}.py" for name in names)


def of(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/test_{file}.py::{name}" for name in names)


TESTS: dict[str, tuple[str, ...]] = {
    "losses/overlap.py": (*golden("dice_loss", "dice_loss_binary", "supervised_loss", "simeps_dice", "desco_3d", "scpnet_2d",
                                  "pgfanet_supervised"),
                          *of("methods", "test_background_counts_in_dice", "test_ignored_pixels_count_nowhere",
                              "test_every_dice_to_the_last_constant"),
                          *of("semsim", "test_masked_dice_is_dice_that_ignores_the_rest")),
    "losses/consistency.py": (*golden("softmax_consistency", "rdrop_2d", "dssn_city", "pgfanet_consistency", "crossmatch_acdc"), *of(
        "two_networks", "test_divergence_is_symmetric_and_0_for_equals_alone")),
    "losses/supervised.py": (*golden("supervised_loss", "ohem_ce", "dssn_voc", "mlbseg_meta"),
                             *of("methods", "test_ignored_pixels_count_nowhere", "test_every_dice_to_the_last_constant"),
                             *of("mlbseg", "test_costs_that_help_share_one")),
    "losses/uncertainty.py": (*golden("entropy", "admt_2d", "uamt_2d", "uamt_threshold", "pgfanet_consistency"),
                              *of("two_networks", "test_golden_entropy"),
                              *of("uncertainty", "test_the_variance_within_objects", "test_constants_of_both_entropies")),
    "losses/similarity.py": (*golden("simeps_similarity"),
                             *of("methods", "test_golden_similarity_maps", "test_one_image_has_no_similarity_loss")),
    "losses/pseudo_labels.py": (*golden("fixmatch_standard_2d", "unimatch", "unimatch_fixmatch", "unimatch_medical", "bcp_masks",
                                        "dssn_voc", "sti_stage4"),
                                *of("fixmatch", "test_masks_by_hand", "test_concentration_is_0_where_all_is_alike_and_1_in_one_pixel",
                                    "test_complementary_loss_by_hand"),
                                *of("copy_paste", "test_the_largest_component_of_each_class_is_kept"),
                                *of("industry", "test_damped_by_the_mean_or_pixel_by_pixel"),
                                *of("self_training", "test_stability_is_the_mean_iou_with_the_last_map"), *files("unimatch")),
    "losses/mixtures.py": golden("bcp_acdc", "bcp_la", "abd_bcp_2d"),
    "losses/class_weights.py": (*golden("dhc_weights", "dhc_losses"), *files("dhc"),
                                *of("c3ps", "test_classes_are_asked_for_alike_and_then_by_how_hard_they_are")),
    "losses/contrast.py": (*golden("simeps_reco"), *of(
        "industry", "test_the_contrast_of_a_query_at_its_mean", "test_only_queries_take_a_gradient",
        "test_all_that_is_contrasted_is_projected",
        "test_one_class_alone_has_nothing_to_be_contrasted_with", "test_positions_are_drawn_from_their_class_and_negatives_from_others",
        "test_every_position_of_a_class_may_be_drawn"), *files("ranked_features")),
    "losses/correlation.py": (*golden("caml_la", "patchcl_loss", "caml_attention"), *of(
        "patchcl", "test_two_points_by_hand", "test_one_class_alone_has_nothing_to_be_told_from", "test_patches_of_no_class_do_not_count",
        "test_hard_negatives_are_those_most_like_the_class", "test_queues_keep_the_newest_of_each_class",
        "test_a_covariance_is_inverted_with_a_share_of_the_mean_variance_and_a_floor"), *of(
        "caml", "test_a_memory_has_the_latest_of_each_image_and_goes_on_after_a_kill", "test_nothing_right_is_nothing_remembered",
        "test_the_surest_of_each_class_come_first", "test_correlations_are_distributions_that_point_to_the_nearest")),
    "losses/semantic.py": files("semsim"),
    "losses/class_similarity.py": (*golden("sti_prototype", "sti_selection", "sti_stage1", "sti_stage4", "cisc_prototype", "cisc_stage1",
                                           "cisc_stage4"),
                                   *of("self_training", "test_a_prototype_points_to_what_the_mask_covers",
                                       "test_soft_pooling_leans_to_large_features", "test_similarity_errors_of_one_counted_pixel",
                                       "test_pairs_are_learned_from_what_the_network_decodes",
                                       "test_what_is_as_similar_as_it_is_said_to_be_counts_fully")),
    "losses/prototypes.py": golden("scpnet_2d", "acmt_prototype_3d"),
    "losses/ambiguity.py": (*golden("acmt_entropy_3d", "acmt_label_errors_3d", "acmt_model_uncertainty_3d", "acmt_prototype_3d",
                                    "acmt_thresholds"),
                            *of("ambiguity", "test_the_nearest_prototype_decides", "test_confident_learning_finds_swapped_labels",
                                "test_a_label_that_is_the_likeliest_class_is_right",
                                "test_the_joint_is_scaled_to_the_labels_in_double_precision",
                                "test_rounding_keeps_the_sum")),
    "losses/evidential.py": files("evidential"),
    "metrics/scores.py": (*golden("metrics_conventions", "miou", "simeps_metrics"), *files("metrics")),
    "metrics/overlap.py": (*golden("metrics_binary_2d", "miou"), *files("metrics")),
    "metrics/surface.py": (*golden("metrics_binary_2d", "metrics_binary_3d"), *files("metrics")),
    "metrics/surface_statistics.py": (*golden("metrics_binary_2d", "metrics_binary_3d"), *files("metrics")),
    "metrics/defects.py": (*golden("simeps_metrics"),
                           *of("metrics", "test_detection_counts_images", "test_simeps_metrics_agree_with_golden_file",
                               "test_ignored_positions_count_nowhere")),
    "metrics/components.py": files("components"),
    "metrics/objects.py": files("objects"),
    "metrics/instances.py": files("objects"),
    "dataloaders/splits/draws.py": files("splits"),
    "dataloaders/splits/folds.py": files("splits"),
    "dataloaders/splits/split.py": (*files("splits"), *of("photographs", "test_a_budget_without_a_published_list_is_refused")),
    "dataloaders/splits/cross_val_dev.py": files("cross_val_dev"),
    "dataloaders/splits/sites.py": files("federated"),
    "dataloaders/splits/self_training.py": files("self_training"),
    "dataloaders/batches/sampling.py": (*golden("two_stream_sampler"), *files("sampling", "federated")),
    "engine/schedules.py": (*golden("ramps", "lr_schedules", "consistency_weight", "dhc_schedules", "mcf_schedules", "mlbseg_schedules",
                                    "cobionet_schedules", "crossmatch_schedules", "pgfanet_schedule", "stpp_schedule"), *files("schedules"),
                            *of("uncertainty", "test_a_rate_that_rises_for_a_twentieth_and_one_that_falls_by_quarters"),
                            *of("step", "test_optimizers_take_all_their_arguments")),
    "inference/scoring.py": files("inference"),
    "inference/windows.py": (*golden("sliding_window_2d", "sliding_window_3d"), *files("sliding_window")),
    "networks/averaging.py": (*golden("ema", "admt_ema"),
                              *of("methods", "test_teacher_equals_the_student_after_step_0_and_is_the_mean_after_step_1",
                                  "test_the_moving_average_takes_statistics_only_when_asked"),
                              *of("federated", "test_the_server_is_the_weighted_mean")),
    "reporting/statistics.py": files("report_statistics"),
}
"""For each module that decides numbers the tests of it, those that cost least first."""
EQUIVALENT: dict[str, dict[str, str]] = {
    "engine/schedules.py": {"threshold = self.best * (1 + 1e-4): Gt -> GtE": "at 0 both branches are 0"},
    "inference/scoring.py": {"both = np.diagonal(counts: .astype() dropped": "whole numbers below 2^53, and floats are added at once"},
    "inference/windows.py": {"size, device = _checked(image: 1 -> 2": "only compared with 1, to be refused below it"},
    "losses/ambiguity.py": {"return label_errors(labels.cpu(): .cpu() dropped": "on Apple's devices alone"},
    "losses/correlation.py": {"self.keys[c] = torch.cat(: .to() dropped": "after a restart on another device alone"},
    "losses/class_similarity.py": {"total, images = total.to(: .to() dropped": "a scalar goes to the device of what it is added to"},
    "losses/pseudo_labels.py": {"kept = [largest_component(one): .cpu() dropped": "on other devices alone"},
    "losses/uncertainty.py": {"return (variances.sum(1): 1e-08 -> 2e-08": "nothing beside 1 in float32, and 0 over either is 0"},
    "losses/supervised.py": {"return x.kthvalue(k): .sort() dropped": "on other devices alone"},
    "metrics/components.py": {"if count > 1:: Gt -> GtE": "of one component the largest is that one"},
    "metrics/objects.py": {"if (n_p + 1) * (n_r + 1) <= MOST_PAIRS:: Add -> Sub": "both ways of counting give the same",
                           "return float(np.divide(above, below,: 0 -> 1": "an object of one pixel without a partner: 0 / 1"},
    "networks/averaging.py": {"return (x.cpu() if x.device.type: .cpu() dropped": "on Apple's devices alone"},
    "reporting/statistics.py": {"if len(within) > 1 and not any(: LtE -> Lt": "no earlier set is the same: each has its own first",
                                "probability = np.zeros(doubled.sum(): Add -> Sub": "the largest sums of ranks are not asked for",
                                "return np.bincount(drawn.ravel(): .astype() dropped": "whole numbers, multiplied by floats",
                                "said = f: GtE -> Gt": "no power of 1/2 is 0.025"},
}
"""Of a module: how a line begins, and the change of it that decides no number; why."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change: the `number`-th of its `site`-th node."""

    module: str
    site: int
    number: int
    line: int
    change: str

    @property
    def name(self) -> str:
        return f"{self.module}:{self.line} {self.change}"

    @property
    def equivalent(self) -> bool:
        """Whether it is known that no number changes."""
        line = (ROOT / "code" / self.module).read_text(encoding="utf-8").splitlines()[self.line - 1].strip()
        parts = (known.rpartition(": ") for known in EQUIVALENT.get(self.module, {}))
        return any(line.startswith(start) and self.change.endswith(f": {change}") for start, _, change in parts)

    def plain(self) -> str:
        """The module as it is, written as `source` is, so that the same lines have the same numbers."""
        return ast.unparse(ast.parse((ROOT / "code" / self.module).read_text(encoding="utf-8"))) + "\n"

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
    # In hundreds, so that one that is stopped has seen all modules, and in these by module.
    return [mutant for k in range(0, len(picked), 100) for mutant in sorted(picked[k : k + 100], key=lambda one: one.module)]


class Fast:
    """A plugin of pytest: tests that start processes or train for long are left out."""

    def pytest_collection_modifyitems(self, items: list) -> None:
        slow, long = {"bench", "commands", "again"}, ("learnt", "memory_does", "run_says", "compiled")
        items[:] = [item for item in items if not slow & set(item.fixturenames) and not any(word in item.name for word in long)]


def put(module: str, source: str) -> bool:
    """Makes a loaded module's functions and constants those of another source, in place, wherever they were imported to.

    Gives whether anything was changed.
    """
    old = sys.modules[module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")]
    new = types.ModuleType(old.__name__)
    new.__dict__.update(__file__=old.__file__, __package__=old.__package__, __path__=getattr(old, "__path__", None))
    exec(compile(source, str(old.__file__), "exec"), new.__dict__)
    before = {name: value for name, value in vars(old).items() if isinstance(value, int | float | tuple)}
    changed = _like(vars(old), vars(new), old.__name__)
    for name, value in before.items():
        if vars(old)[name] != value:
            _import_again(old.__name__, name, vars(old)[name])
    _forget(old.__name__)
    return changed


def _own(module: str) -> bool:
    """Whether a module is one of this suite or its tests."""
    return str(getattr(sys.modules.get(module), "__file__", None) or "").startswith((str(ROOT / "code"), str(ROOT / "tests")))


def _import_again(module: str, name: str, value: object) -> None:
    """A constant is a copy where it was imported by name."""
    for other, loaded in list(sys.modules.items()):
        if _own(other) and name in vars(loaded):
            tree = ast.parse(Path(str(loaded.__file__)).read_text(encoding="utf-8"))
            if any(isinstance(node, ast.ImportFrom) and node.module == module and any(one.name == name for one in node.names)
                   for node in tree.body):
                setattr(loaded, name, value)


def _forget(module: str) -> None:
    """What is left of the tests that have run: results that caches have kept, and the module's compiled kernels."""
    for thing in gc.get_objects():
        if issubclass(type(thing), functools._lru_cache_wrapper):
            if _own(str(getattr(thing, "__module__", ""))):
                thing.cache_clear()
        elif issubclass(type(thing), Dispatcher) and thing.__module__ == module:
            thing._cache = NullCache()  # the one on disk does not look at constants
            thing._reset_overloads()


def _parts(value: object) -> object:
    """What a call of a partial function is made of; any other thing itself."""
    return (value.func.__qualname__, value.args, value.keywords) if isinstance(value, functools.partial) else value


def _like(old: Mapping[str, object], new: Mapping[str, object], module: str, owner: str = "") -> bool:
    changed = False
    for name, now in new.items():
        then = old.get(name)
        if name.startswith("__") and not callable(now):
            continue
        while hasattr(then, "__wrapped__") and hasattr(now, "__wrapped__"):
            then, now = then.__wrapped__, now.__wrapped__
        if isinstance(then, property) and isinstance(now, property):
            then, now = then.fget, now.fget
        if isinstance(then, classmethod | staticmethod) and isinstance(now, classmethod | staticmethod):
            then, now = then.__func__, now.__func__
        if isinstance(then, types.FunctionType) and isinstance(now, types.FunctionType):
            if then.__module__ not in (module, f"namedtuple_{owner}"):
                continue
            for part in ("__code__", "__defaults__", "__kwdefaults__"):
                if getattr(then, part) != getattr(now, part):
                    setattr(then, part, getattr(now, part))
                    changed = True
        elif isinstance(then, type) and isinstance(now, type):
            if then.__module__ == module:
                changed |= _like(vars(then), vars(now), module, name)
        elif isinstance(then, dict) and isinstance(now, dict) and then.keys() == now.keys():
            for key, value in now.items():
                before = then[key]
                if isinstance(before, types.FunctionType) and isinstance(value, types.FunctionType):
                    changed |= before.__code__ != value.__code__
                    before.__code__ = value.__code__
                elif isinstance(value, int | float | tuple | functools.partial | types.FunctionType) and _parts(before) != _parts(value):
                    then[key], changed = value, True
        elif isinstance(now, int | float | tuple) and isinstance(old, dict) and then != now:
            old[name], changed = now, True
    return changed


def pytested(tests: tuple[str, ...]) -> int:
    import pytest

    return int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--rootdir={ROOT}", *tests],
                           plugins=[Fast()]))


def in_fork(out: Path, work: Callable[[], int]) -> tuple[str, str]:
    """(caught, survived, untouched or timed out; the end of what was said) of work in a child of a fork."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number in (1, 2):
                os.dup2(handle, number)
            resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 5))
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    _, status, _ = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    outcome = {0: "survived", UNTOUCHED: "untouched", -signal.SIGXCPU: "timed out"}.get(code, "caught")
    return outcome, out.read_text(errors="replace")[-1200:]


def run(place: Path, ledger: Ledger, count: int, only: str = "") -> None:
    """Tests `count` mutants (those of modules that hold `only` in their name); first whether the tests pass on the code as it is."""
    todo = [mutant for mutant in chosen(count) if mutant.name not in ledger.found and only in mutant.module]
    import torch
    torch.set_num_threads(1)
    os.chdir(ROOT)
    loaded: set[str] = set()
    for mutant in todo:
        module, tests = mutant.module, TESTS[mutant.module]
        if module not in loaded:
            # In this very process, so that what its children need is loaded.
            loaded.add(module)
            key = f"{module} as it is"
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                import_module(module.removesuffix(".py").replace("/", "."))
                passes = pytested(tests) == 0
            ledger.add(key, "as it is", "passes" if passes else "fails", out.getvalue())
        if ledger.found[f"{module} as it is"]["outcome"] != "passes":
            continue

        def work(mutant: Mutant = mutant, tests: tuple[str, ...] = tests) -> int:
            put(mutant.module, mutant.plain())  # what differs by its line numbers alone is another code to Python
            return pytested(tests) if put(mutant.module, mutant.source()) else UNTOUCHED

        outcome, said = in_fork(place / "out.txt", work)
        if outcome == "survived" and mutant.equivalent:
            outcome = "equivalent"
        ledger.add(mutant.name, module.rpartition("/")[0], outcome, said)
