"""Pictures of volumes: three orthogonal planes with contours, and rendered surfaces of reference and prediction."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import center_of_mass, distance_transform_edt, find_objects, gaussian_filter, map_coordinates, sobel, uniform_filter
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from pictures.flat import colour_of, grey
from pictures.sheets import any_letters, legend, plt

FINEST_GRID = 100
"""Voxels along the longest side of what is rendered; finer masks are smoothed and thinned out first."""
LIGHT = np.array((0.35, -0.6, 0.72))
"""Direction towards the light, in mm to the patient's left, back and head; over the shoulder of someone who looks from the front."""
DARK = "#111111"
PLANES = (("axial", 2, 0, 1, "RLAP"), ("coronal", 1, 0, 2, "RLSI"), ("sagittal", 0, 1, 2, "APSI"))
"""Name, axis across, axes to the right and upright, and what lies left, right, above and below in a radiologist's view."""


def upright(array: np.ndarray, spacing: Sequence[float] | None, affine: np.ndarray | None) -> tuple[np.ndarray, tuple[float, ...]]:
    """(X, Y, Z) -> the array with axes to the patient's left, back and head, and the spacing in that order (1 where unknown).

    `affine`: array index -> mm in RAS+. Without it the axes are taken to be so already, as in what ITK reads of axial scans.
    """
    steps = tuple(map(float, spacing)) if spacing is not None else (1.0, 1.0, 1.0)
    if affine is None:
        return array, steps
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(("L", "P", "S")))
    order = np.argsort(turn[:, 0])
    return apply_orientation(array, turn), tuple(steps[int(axis)] for axis in order)


def three_planes(path: Path | BinaryIO, image: np.ndarray, reference: np.ndarray | None, prediction: np.ndarray,
                 spacing: Sequence[float] | None, classes: Sequence[str], title: str, affine: np.ndarray | None = None,
                 doubt: np.ndarray | None = None) -> None:
    """A PNG: axial, coronal and sagittal planes through the middle of the reference, and through the worst disagreement; without a
    reference through the middle of the prediction, and where `doubt` is greatest.

    Args:
        image: (C, X, Y, Z); the first channel is shown.
        reference, prediction: label maps (X, Y, Z); voxels whose reference is 255 are no disagreement.
        spacing: mm along X, Y, Z; None counts voxels as cubes.
        classes: names, background first.
        affine: array index -> mm in RAS+ (4, 4); see `upright`.
        doubt: (X, Y, Z), how unsure each voxel is.

    White lines are the reference's, coloured ones the prediction's; patients are seen from the feet, the front and the left side.
    """
    pixels, steps = upright(image[0], spacing, affine)
    prediction = upright(prediction, spacing, affine)[0]
    if reference is None:
        rows = {"middle of the prediction": _middle(prediction > 0)}
        reference, names = np.zeros_like(prediction), []
    else:
        reference, names = upright(reference, spacing, affine)[0], ["reference"]
        rows = {"middle of the reference": _middle(reference % 255 > 0)}
        wrong = (reference != prediction) & (reference != 255)
        if wrong.any():
            rows["largest disagreement"] = _thickest(wrong)
    if doubt is not None:
        around = uniform_filter(upright(doubt, spacing, affine)[0], 5)
        rows["least certain"] = tuple(int(k) for k in np.unravel_index(around.argmax(), around.shape))
    lengths = np.array(pixels.shape) * steps
    across = [lengths[horizontal] for _, _, horizontal, _, _ in PLANES]
    high = max(lengths[vertical] for _, _, _, vertical, _ in PLANES)
    inches = 12.6 / sum(across)
    height = len(rows) * (high * inches + 0.3) + 0.75
    figure, axes = plt.subplots(len(rows), 3, figsize=(13, height), squeeze=False, width_ratios=across, facecolor=DARK)
    shown = grey(pixels.reshape(1, len(pixels), -1))[..., 0].reshape(pixels.shape)
    for row, (name, place) in zip(axes, rows.items()):
        for axis, (plane, across_axis, horizontal, vertical, letters) in zip(row, PLANES):
            # Left and posterior grow along the array; the coronal and sagittal planes have the head above.
            extent = (0, lengths[horizontal], lengths[vertical], 0) if plane == "axial" else (0, lengths[horizontal], 0, lengths[vertical])
            cut = (slice(None),) * across_axis + (place[across_axis],)
            origin = "upper" if plane == "axial" else "lower"
            axis.imshow(shown[cut].T, cmap="gray", vmin=0, vmax=255, extent=extent, origin=origin, interpolation="bilinear")
            _outlines(axis, reference[cut].T, prediction[cut].T, (steps[horizontal], steps[vertical]), len(classes))
            for letter, (x, y) in zip(letters, ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))):
                axis.text(x, y, letter, transform=axis.transAxes, color="#e8c34a", fontsize=8,
                          ha={0.02: "left", 0.98: "right"}.get(x, "center"), va={0.02: "bottom", 0.98: "top"}.get(y, "center"))
            where = f"{plane} {place[across_axis] + 1} of {pixels.shape[across_axis]}"
            axis.set_title(f"{where}: {name}" if plane == "axial" else where, fontsize=9, color="white", pad=3, parse_math=False)
            axis.set_axis_off()
    lines = [plt.Line2D([], [], color="white", linewidth=2) for _ in names]
    lines += [plt.Line2D([], [], color=tuple(colour_of(c) / 255), linewidth=2) for c in range(1, len(classes))]
    names += [f"predicted {name}" for name in classes[1:]]
    figure.legend(lines, names, loc="lower center", ncols=min(len(names), 6), fontsize=9, frameon=False, labelcolor="white")
    figure.suptitle(title, fontsize=11, color="white", y=1 - 0.12 / height, parse_math=False)
    figure.subplots_adjust(left=0.008, right=0.992, bottom=0.38 / height, top=1 - 0.6 / height, wspace=0.02, hspace=0.3 / (high * inches))
    with any_letters():
        figure.savefig(path, dpi=110)
    plt.close(figure)


def _middle(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel of a mask nearest its centre of mass, so that planes through it meet the mask; the array's middle if it is empty."""
    if not mask.any():
        return tuple(n // 2 for n in mask.shape)
    voxels = np.argwhere(mask)
    nearest = ((voxels - np.array(center_of_mass(mask))) ** 2).sum(1).argmin()
    return tuple(int(k) for k in voxels[nearest])


def _thickest(mask: np.ndarray) -> tuple[int, ...]:
    """The voxel of a mask farthest from its outside."""
    box = find_objects(mask.astype(np.uint8))[0]
    depth = distance_transform_edt(np.pad(mask[box], 1))
    return tuple(int(k) - 1 + one.start for k, one in zip(np.unravel_index(depth.argmax(), depth.shape), box))


def _outlines(axis: Any, reference: np.ndarray, prediction: np.ndarray, steps: tuple[float, float], num_classes: int) -> None:
    """Contours of two (rows, columns) label maps on an axis whose units are mm."""
    x, y = ((np.arange(n) + 0.5) * step for n, step in zip(reference.shape[::-1], steps))
    for labels, white in ((reference, True), (prediction, False)):
        for c in range(1, num_classes):
            inside = labels == c
            if inside.any() and min(inside.shape) > 1:
                axis.contour(x, y, inside, [0.5], colors=["white" if white else colour_of(c) / 255], linewidths=1.6 if white else 1.3)


# Surfaces


def surface(path: Path, reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float] | None, classes: Sequence[str],
            title: str = "", affine: np.ndarray | None = None) -> None:
    """A PNG with the surfaces of reference (X, Y, Z) and prediction, seen from the front and a little from above; the prediction once
    in the classes' colours, once coloured by its distance to the same class of the reference. Other arguments: `three_planes`.
    """
    reference, steps = upright(reference, spacing, affine)
    prediction = upright(prediction, spacing, affine)[0]
    unit = "voxels" if spacing is None else "mm"
    boxes = [box for box in find_objects(((reference % 255 > 0) | (prediction > 0)).astype(np.uint8)) if box]
    box = boxes[0] if boxes else tuple(slice(0, n) for n in reference.shape)
    meshes = {
        name: {c: mesh for c in range(1, len(classes)) if (mesh := _mesh(labels[box] == c, steps)) is not None}
        for name, labels in (("reference", reference), ("prediction", prediction))
    }
    trees = {c: cKDTree(mesh.corners.reshape(-1, 3)) for c, mesh in meshes["reference"].items()}
    # A class that the reference lacks has no distance, and is drawn grey.
    far = {c: trees[c].query(mesh.corners.mean(1))[0] for c, mesh in meshes["prediction"].items() if c in trees}
    measured = np.concatenate([*far.values(), np.zeros(1)])
    largest = max(float(np.percentile(measured, 99)), 2 * min(steps))
    map_of = plt.get_cmap("viridis")

    figure = plt.figure(figsize=(13, 4.2), facecolor="white")
    plain = {which: {c: np.tile(colour_of(c) / 255, (len(mesh.corners), 1)) for c, mesh in meshes[which].items()} for which in meshes}
    tinted = {c: np.full((len(mesh.corners), 3), 0.6) for c, mesh in meshes["prediction"].items()}
    tinted |= {c: map_of(distances / largest)[:, :3] for c, distances in far.items()}
    panels = (("reference", "reference", plain["reference"]), ("prediction", "prediction", plain["prediction"]),
              ("prediction", f"distance to the reference in {unit}", tinted))  # fmt: skip
    for number, (which, name, paint) in enumerate(panels):
        axis = figure.add_axes((0.005 + 0.31 * number, 0.05, 0.31, 0.84), projection="3d")
        _render(axis, meshes[which], paint, [(k.stop - k.start) * step for k, step in zip(box, steps)])
        axis.set_title(name if paint else f"{name}: empty", fontsize=10, y=0.98, parse_math=False)
    bar = figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, largest), map_of), cax=figure.add_axes((0.945, 0.2, 0.012, 0.55)))
    bar.ax.tick_params(labelsize=8)
    legend(figure, classes)
    figure.suptitle(title, fontsize=11, parse_math=False)
    with any_letters():
        figure.savefig(path, dpi=110)
    plt.close(figure)


@dataclass(frozen=True)
class Mesh:
    """Triangles in mm: `corners` (N, 3, 3), and one outward `normals` (N, 3) each, of length 1 and smooth over the surface."""

    corners: np.ndarray
    normals: np.ndarray


def _mesh(mask: np.ndarray, steps: Sequence[float]) -> Mesh | None:
    """A mask's surface; None for an empty mask."""
    if not mask.any():
        return None
    thin = -(-max(mask.shape) // FINEST_GRID)
    margin = 3 * thin
    smooth = gaussian_filter(np.pad(mask, margin).astype(np.float32), 0.7 * thin)[::thin, ::thin, ::thin]
    # What is smaller than the smoothing has no voxel above one half.
    spaced = np.array(steps) * thin
    vertices, triangles, _, _ = marching_cubes(smooth, min(0.5, 0.5 * float(smooth.max())), spacing=tuple(spaced))
    # A mask decreases outwards. Its gradient in mm, taken wider than a voxel, hides the steps between slices.
    slopes = [-sobel(gaussian_filter(smooth, 1.0), axis) / step for axis, step in enumerate(spaced)]
    middles = vertices[triangles].mean(1)
    normals = np.stack([map_coordinates(slope, (middles / spaced).T, order=1) for slope in slopes], 1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return Mesh(vertices[triangles] - margin * np.array(steps), normals)


def _render(axis: Any, meshes: dict[int, Mesh], paint: dict[int, np.ndarray], lengths: Sequence[float]) -> None:
    """Draws shaded triangles of all classes at once, so that nearer ones hide those behind."""
    axis.set_axis_off()
    # The patient's left, back and head grow along the array; matplotlib's axes are right-handed like these.
    axis.view_init(elev=20, azim=-70)
    axis.set(xlim=(0, lengths[0]), ylim=(0, lengths[1]), zlim=(0, lengths[2]))
    axis.set_box_aspect(lengths, zoom=1.2)
    if not meshes:
        return
    light = np.concatenate([mesh.normals for mesh in meshes.values()]) @ (LIGHT / np.linalg.norm(LIGHT))
    shaded = np.concatenate(list(paint.values())) * (0.56 + 0.46 * light)[:, None]
    corners = np.concatenate([mesh.corners for mesh in meshes.values()])
    axis.add_collection3d(Poly3DCollection(corners, facecolors=shaded.clip(0, 1), edgecolors="none", antialiased=False))
