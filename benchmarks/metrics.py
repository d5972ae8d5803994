"""Scores of a case (Dice, Jaccard, HD95, ASD of every class) against medpy, MONAI and surface-distance, on real labels; and scores of
objects against the usual loop over masks.

    python benchmarks/metrics.py        reads ACDC, LA, GlaS and MoNuSeg under $SEMISEG_DATA, else data/; some minutes on two cores
    python benchmarks/metrics.py objects      the objects alone

    PYTHONPATH=folder python benchmarks/metrics.py      with peers installed apart: pip install --target folder --no-deps monai ...

Predictions are the labels, bent by a smooth random displacement whose strength is searched for: mean Dice 0.95 (near), 0.5 (bad).
Ours and the peers run in turn, one thread each; the ratio is the peer's median time over ours, `ratio_two_threads` when ours takes
two cases at a time. Peers define some distances
otherwise (MONAI: the larger of two percentiles; surface-distance: areas), so only medpy's numbers are compared. The floor is the
time to read both label maps once (they lie in the cache). A peer or data set that is missing gets a line.

For objects no package has all of these scores. cellseg-metrics (the functions of HoVer-Net and of cellseg_models.pytorch) has AJI and
PQ, cellpose AJI and the pairs of IoU above 1/2: they are timed for these, ours for all scores, the Hausdorff distance of every object
included. `mask by mask` has all of them: a mask for every object, as in the challenge's Matlab, written here with NumPy and scipy's k-d
tree.

    pip install --target folder --no-deps cellseg-metrics cellpose fastremap fill-voids opencv-python-headless
"""
from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import h5py  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402
from scipy.spatial import KDTree  # noqa: E402

from metrics import object_scores, object_sums, score_case  # noqa: E402

REPEATS = 5
CASES = {"ACDC": 6, "LA": 3}
PATTERNS = {"ACDC": "data/*.h5", "LA": "2018LA_Seg_Training Set/*/*.h5"}
LEVELS = {"near": 0.95, "bad": 0.5}
COMPILE = """
import time, numpy as np
start = time.perf_counter()
from metrics import score_case
a = np.zeros((4, 8, 8), np.uint8); a[:, 2:5, 2:5] = 1
score_case(a, a[:, ::-1], 2)
print(time.perf_counter() - start)
"""

Peer = Callable[[np.ndarray, np.ndarray, int], None]
ObjectPeer = Callable[[np.ndarray, np.ndarray], dict[str, float]]


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        names = [line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def labels_of(dataset: str) -> list[np.ndarray]:
    folder = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / dataset
    files = sorted(folder.glob(PATTERNS[dataset]))
    chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, CASES[dataset]).astype(int))] if files else []
    if not files:
        print(f"{dataset}: no {PATTERNS[dataset]} in {folder}; set SEMISEG_DATA to the folder that holds {dataset}/.")
    maps = []
    for path in chosen:
        with h5py.File(path, "r") as file:
            maps.append(np.ascontiguousarray(file["label"][()], dtype=np.uint8))
    return maps


def mean_dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    values = []
    for label in range(1, int(reference.max()) + 1):
        p, r = prediction == label, reference == label
        values.append(2 * (p & r).sum() / max(p.sum() + r.sum(), 1))
    return float(np.mean(values))


def bent(labels: np.ndarray, target: float, seed: int) -> np.ndarray:
    """The labels moved by a smooth random field and a common shift, both scaled until the mean Dice is about `target`."""
    rng = np.random.default_rng(seed)
    scales = [0.1 if size < 32 else 1.0 for size in labels.shape]  # few thick slices: hardly any displacement across them
    field = np.empty((labels.ndim, *labels.shape), np.float32)
    for axis, scale in enumerate(scales):
        coarse = rng.standard_normal([max(2, size // 16) for size in labels.shape])
        zoomed = ndimage.zoom(coarse, [n / m for n, m in zip(labels.shape, coarse.shape)], order=1)
        field[axis] = scale * (zoomed + 0.5 * rng.choice([-1, 1]))
    grid = np.indices(labels.shape, dtype=np.float32)
    low, high = 0.0, 60.0
    for _ in range(9):
        strength = (low + high) / 2
        result = ndimage.map_coordinates(labels, grid + strength * field, order=0)
        low, high = (strength, high) if mean_dice(result, labels) > target else (low, strength)
    return result


def medpy_scores(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> np.ndarray:
    from medpy.metric import binary

    pairs = [(prediction == label, reference == label) for label in range(1, num_classes)]
    return np.array([[f(p, r) for f in (binary.dc, binary.jc, binary.hd95, binary.asd)] for p, r in pairs])


def our_scores(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> np.ndarray:
    scores = score_case(prediction, reference, num_classes)
    return np.array([[score[key] for key in ("dice", "jaccard", "hd95_vox", "asd_vox")] for score in scores], dtype=float)


def peers() -> dict[str, Peer]:
    """Peers that import here; the others get a line."""
    found: dict[str, Peer] = {}
    try:
        import medpy.metric  # noqa: F401

        found["medpy"] = medpy_scores
    except ImportError as error:
        print(f"medpy: not installed ({error})")
    try:
        import torch
        from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance, compute_iou

        torch.set_num_threads(1)

        def monai(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> None:
            p, r = (torch.from_numpy(np.stack([labels == c for c in range(num_classes)])[None]) for labels in (prediction, reference))
            compute_dice(p, r, include_background=False)
            compute_iou(p, r, include_background=False)
            compute_hausdorff_distance(p, r, include_background=False, percentile=95)
            compute_average_surface_distance(p, r, include_background=False)

        found["monai"] = monai
    except ImportError as error:
        print(f"monai: not installed ({error})")
    try:
        import surface_distance as deepmind

        def weighted(prediction: np.ndarray, reference: np.ndarray, num_classes: int) -> None:
            for label in range(1, num_classes):
                p, r = prediction == label, reference == label
                deepmind.compute_dice_coefficient(r, p)
                distances = deepmind.compute_surface_distances(r, p, (1.0,) * p.ndim)
                deepmind.compute_robust_hausdorff(distances, 95)
                deepmind.compute_average_surface_distance(distances)

        found["surface-distance"] = weighted
    except ImportError as error:
        print(f"surface-distance: not installed ({error})")
    for name in found:
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name}, version unknown")
    return found


def compile_seconds() -> tuple[float, float]:
    """Seconds of import and first call in a new process: with an empty cache on disk, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(ROOT / "code")}
        first, second = (
            float(subprocess.run([sys.executable, "-c", COMPILE], env=environment, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return first, second


def milliseconds(function: Callable[[], object], calls: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) * 1e3 / calls


def compare(dataset: str, level: str, pairs: list[tuple[np.ndarray, np.ndarray]], found: dict[str, Peer]) -> list[dict[str, object]]:
    """Prints the rows of one data set and level; the lines for machines."""
    num_classes = int(max(reference.max() for _, reference in pairs)) + 1
    dice = float(np.mean([mean_dice(p, r) for p, r in pairs]))
    times: dict[str, list[float]] = {name: [] for name in ("ours", "ours, two threads", "floor", *found)}

    def ours() -> None:
        for p, r in pairs:
            our_scores(p, r, num_classes)

    ours()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(REPEATS):
            times["ours"].append(milliseconds(ours, 3) / len(pairs))
            twice = pairs + pairs
            times["ours, two threads"].append(
                milliseconds(lambda work=twice: list(pool.map(lambda pair: our_scores(*pair, num_classes), work)), 2) / len(twice)
            )
            times["floor"].append(milliseconds(lambda: [(p.max(), r.max()) for p, r in pairs], 3) / len(pairs))
            for name, peer in found.items():
                times[name].append(milliseconds(lambda peer=peer: [peer(p, r, num_classes) for p, r in pairs]) / len(pairs))
    median = {name: float(np.median(values)) for name, values in times.items()}
    for name, value in median.items():
        print(f"{dataset:6}{level:6}{dice:7.2f}  {name:20}{value:12.2f}{value / median['ours']:12.2f}")
    if "medpy" in found:
        worst = max(np.abs(our_scores(p, r, num_classes) - medpy_scores(p, r, num_classes)).max() for p, r in pairs)
        print(f"{'':22}largest difference from medpy {worst:.1e}")
    return [
        {
            "name": f"metrics {dataset} {peer} {level}", "ratio": round(median[peer] / median["ours"], 1),
            "ratio_two_threads": round(median[peer] / median["ours, two threads"], 1),
            "times_floor": round(median["ours"] / median["floor"], 1),
            "ours_ms": round(median["ours"], 3), "peer_ms": round(median[peer], 2), "dice": round(dice, 3),
            "cases": len(pairs), "repeats": REPEATS,
        }
        for peer in found
    ]  # fmt: skip


def instances_of(dataset: str) -> list[np.ndarray]:
    """Three maps of instances of a data set's download."""
    folder = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / dataset
    files = sorted(folder.rglob("*_anno.bmp" if dataset == "GlaS" else "*.xml"))[:3]
    if not files:
        print(f"{dataset}: no references in {folder}; set SEMISEG_DATA to the folder that holds {dataset}/.")
    if dataset == "GlaS":
        return [np.asarray(Image.open(file)).astype(np.int32) for file in files]
    from preparation.monuseg import instances_in

    return [instances_in(file, (1000, 1000)).astype(np.int32) for file in files]


def mask_by_mask(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """All scores of objects as they are usually computed."""
    predicted, true = ([ids == i for i in np.unique(ids) if i] for ids in (prediction, reference))
    place = {int(i): k for k, i in enumerate(np.unique(reference[reference > 0]))}
    both = np.zeros((len(predicted), len(true)), int)
    for k, mask in enumerate(predicted):
        for i, count in zip(*np.unique(reference[mask], return_counts=True)):
            if i:
                both[k, place[int(i)]] = count
    area_p, area_r = np.array([p.sum() for p in predicted]), np.array([r.sum() for r in true])
    iou = both / (area_p[:, None] + area_r - both)

    def hausdorff(a: np.ndarray, b: np.ndarray) -> float:
        a, b = np.argwhere(a), np.argwhere(b)
        return max(KDTree(a).query(b)[0].max(), KDTree(b).query(a)[0].max())

    dice, distance, found = [], [], 0
    for mine, others, shared, areas in ((predicted, true, both, area_p), (true, predicted, both.T, area_r)):
        overlaps, distances = [], []
        for k, mask in enumerate(mine):
            partner = int(shared[k].argmax())
            if shared[k, partner]:
                overlaps.append(2 * shared[k, partner] / (areas[k] + others[partner].sum()))
                distances.append(hausdorff(mask, others[partner]))
                found += mine is predicted and shared[k, partner] / area_r[partner] > 0.5
            else:
                overlaps.append(0.0)
                distances.append(min(hausdorff(mask, other) for other in others))
        dice.append((areas * overlaps).sum() / areas.sum())
        distance.append((areas * distances).sum() / areas.sum())
    best = iou.argmax(0)
    known = iou.max(0) > 0
    columns = np.flatnonzero(known)
    above = both[best[known], columns].sum()
    below = (area_p[best[known]] + area_r[known] - both[best[known], columns]).sum() + area_r[~known].sum()
    below += area_p[np.setdiff1d(np.arange(len(predicted)), best[known])].sum()
    matched, objects = iou[iou > 0.5], len(predicted) + len(true)
    sq = float(matched.mean()) if matched.size else 0.0
    return {"object_f1": 2 * found / objects, "object_dice": sum(dice) / 2, "object_hausdorff": sum(distance) / 2, "aji": above / below,
            "pq": 2 * matched.sum() / objects, "sq": sq, "rq": 2 * matched.size / objects}


def object_peers() -> dict[str, ObjectPeer]:
    """Packages that score objects and import here, each giving the scores that it has by our names; the others get a line."""
    found: dict[str, ObjectPeer] = {}
    try:
        from cellseg_metrics import aggregated_jaccard_index, panoptic_quality

        def cellseg(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
            quality = panoptic_quality(reference, prediction)
            return {"pq": quality["pq"], "sq": quality["sq"], "rq": quality["dq"], "aji": aggregated_jaccard_index(reference, prediction)}

        found["cellseg-metrics"] = cellseg
    except ImportError as error:
        print(f"cellseg-metrics: not installed ({error})")
    try:
        from cellpose import metrics as cellpose

        def of_cellpose(prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
            _, pairs, extra, missed = (float(one[0]) for one in cellpose.average_precision(reference, prediction, [0.5]))
            aji = float(cellpose.aggregated_jaccard_index([reference], [prediction])[0])
            return {"rq": 2 * pairs / (2 * pairs + extra + missed), "aji": aji}

        found["cellpose"] = of_cellpose
    except ImportError as error:
        print(f"cellpose: not installed ({error})")
    for name in found:
        print(f"{name} {version(name)}")
    return found


def compare_objects(found: dict[str, ObjectPeer]) -> list[dict[str, object]]:
    """Prints the rows of all data sets of objects; the lines for machines."""
    lines: list[dict[str, object]] = []
    for dataset in ("GlaS", "MoNuSeg"):
        maps = instances_of(dataset)
        for level, strength in (("near", 2.0), ("bad", 8.0)) if maps else ():
            pairs = [(moved(ids, strength, seed), ids) for seed, ids in enumerate(maps)]
            ours = [object_scores(object_sums(p, r)) for p, r in pairs]
            times: dict[str, list[float]] = {name: [] for name in ("ours", "mask by mask", "floor", *found)}
            for _ in range(3):
                times["ours"].append(milliseconds(lambda pairs=pairs: [object_scores(object_sums(p, r)) for p, r in pairs], 3) / len(pairs))
                times["mask by mask"].append(milliseconds(lambda pairs=pairs: [mask_by_mask(p, r) for p, r in pairs[:1]]))
                times["floor"].append(milliseconds(lambda pairs=pairs: [(p.max(), r.max()) for p, r in pairs], 3) / len(pairs))
                for name, peer in found.items():
                    times[name].append(milliseconds(lambda peer=peer, pairs=pairs: [peer(p, r) for p, r in pairs]) / len(pairs))
            times["ours, first"] = [milliseconds(lambda pairs=pairs: object_scores(object_sums(*pairs[0])), 3) for _ in range(3)]
            median = {name: float(np.median(values)) for name, values in times.items()}
            theirs = mask_by_mask(*pairs[0])
            worst = max(abs(theirs[name] - value) for name, value in ours[0].items())
            objects = sum(int(r.max()) for _, r in pairs)
            for name, value in median.items():
                print(f"{dataset:8}{level:6}{name:20}{value:12.2f}")
            print(f"{'':14}{objects} objects in {len(pairs)} images, object F1 {ours[0]['object_f1']:.2f}; the peer takes the first image "
                  f"alone; largest difference {worst:.1e}")
            for name, peer in found.items():
                far = {key: max(abs(peer(p, r)[key] - one[key]) for (p, r), one in zip(pairs, ours)) for key in peer(*pairs[0])}
                print(f"{'':14}largest difference from {name}: {', '.join(f'{key} {value:.1e}' for key, value in far.items())}")
                lines.append({"name": f"objects {dataset} {name} {level}", "ratio": round(median[name] / median["ours"], 2),
                              "ours_ms": round(median["ours"], 3), "peer_ms": round(median[name], 2), "scores": sorted(far), "repeats": 3})
            ratio = round(median["mask by mask"] / median["ours, first"], 1)
            lines.append({"name": f"objects {dataset} mask by mask {level}", "ratio": ratio,
                          "times_floor": round(median["ours"] / median["floor"], 1), "ours_ms": round(median["ours, first"], 3),
                          "peer_ms": round(median["mask by mask"], 1), "objects": objects, "repeats": 3})
    return lines


def moved(ids: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Instances moved by a smooth random field of so many pixels, a tenth of them missing."""
    rng = np.random.default_rng(seed)
    field = [rng.standard_normal([size // 25 for size in ids.shape]) for _ in ids.shape]
    field = [ndimage.zoom(one, [n / m for n, m in zip(ids.shape, one.shape)], order=1) for one in field]
    found = ndimage.map_coordinates(ids, np.indices(ids.shape) + strength * np.array(field), order=0)
    return np.where(np.isin(found, rng.choice(int(ids.max()) + 1, int(ids.max()) // 10 + 1)), 0, found)


def main() -> None:
    warnings.filterwarnings("ignore")
    print(f"machine: {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; python {platform.python_version()}, "
          f"numpy {np.__version__}; median of {REPEATS} repeats, sides in turn, one thread unless said")  # fmt: skip
    objects_alone = sys.argv[1:] == ["objects"]
    found = {} if objects_alone else peers()
    lines: list[dict[str, object]] = []
    if not objects_alone:
        first, second = compile_seconds()
        print(f"compilation, apart: {first:.1f} s once (import and first call), {second:.1f} s from the cache on disk in later processes")
    for dataset in () if objects_alone else CASES:
        maps = labels_of(dataset)
        if not maps:
            continue
        sizes = ", ".join("x".join(map(str, labels.shape)) for labels in maps)
        print(f"\n{dataset}: {len(maps)} cases ({sizes})\nset   level    Dice  who                   ms a case  times ours")
        for level, target in LEVELS.items():
            pairs = [(bent(labels, target, seed), labels) for seed, labels in enumerate(maps)]
            lines += compare(dataset, level, pairs, found)
    of_objects = object_peers()
    print("\nset     level who                 ms an image")
    lines += compare_objects(of_objects)
    print()
    for line in lines:
        print(json.dumps(line))


if __name__ == "__main__":
    main()
