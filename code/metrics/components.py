"""Connected components of label maps."""
from __future__ import annotations

import numpy as np
from scipy import ndimage


def largest_component(labels: np.ndarray) -> np.ndarray:
    """Keeps the largest connected component of every foreground class of one label map (Y, X) or (X, Y, Z); the rest becomes 0.

    Voxels that share a corner are connected (8 neighbours in 2D, 26 in 3D), as in the published post-processing (UA-MT, BCP). Of
    components of the same size the one whose first voxel comes first is kept. The type of `labels` stays; 255 (ignored) is a class
    like the others.
    """
    labels = np.asarray(labels)
    kept = np.zeros_like(labels)
    everywhere = np.ones((3,) * labels.ndim, bool)
    # Boxes are indexed by label - 1; a class lies inside its box, so only that part is searched.
    for index, box in enumerate(ndimage.find_objects(labels.astype(np.int64, copy=False))):
        if box is None:
            continue
        inside = labels[box] == index + 1
        components, count = ndimage.label(inside, everywhere)
        if count > 1:
            sizes = np.bincount(components.ravel())
            sizes[0] = 0
            inside = components == sizes.argmax()
        kept[box][inside] = index + 1
    return kept
