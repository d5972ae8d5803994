"""Hausdorff distances between the objects of two maps of instances, compiled; a part of `metrics.objects`.

The distance of two objects is that of their sets of pixels: the farthest that a pixel of one lies from the nearest of the other. Within
the columns of the other object a table holds the steps up or down to it; a pixel then looks to both sides as far as that can still help,
and no farther than needed to know that it is not the farthest. What one pixel found bounds its neighbours in the row, most of which
are passed over.
"""
from __future__ import annotations

import numpy as np

from metrics.compiled import compiled

FAR = 1 << 20
"""Steps where a column has no pixel of the object."""


@compiled
def pixels_of(instances, count):
    """(places, starts, boxes) of the objects 1 to `count`: object i has the flat indices places[starts[i]:starts[i + 1]], ascending, and
    the box boxes[i], its first and last row, first and last column."""
    height, width = instances.shape
    starts = np.zeros(count + 2, np.int64)
    boxes = np.empty((count + 1, 4), np.int64)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = height, -1, width, -1
    for y in range(height):
        for x in range(width):
            i = instances[y, x]
            if i:
                starts[i + 1] += 1
                boxes[i, 0], boxes[i, 1] = min(boxes[i, 0], y), max(boxes[i, 1], y)
                boxes[i, 2], boxes[i, 3] = min(boxes[i, 2], x), max(boxes[i, 3], x)
    for i in range(count + 1):
        starts[i + 1] += starts[i]
    free = starts.copy()
    places = np.empty(starts[-1], np.int64)
    for y in range(height):
        for x in range(width):
            i = instances[y, x]
            if i:
                places[free[i]] = y * width + x
                free[i] += 1
    return places, starts, boxes


@compiled
def _steps(instances, label, top, bottom, left, right):
    """Steps up or down to the nearest pixel of an object, for every pixel of a box; `FAR` and more in columns without one."""
    steps = np.empty((bottom - top + 1, right - left + 1), np.int64)
    for y in range(steps.shape[0]):
        for x in range(steps.shape[1]):
            if instances[top + y, left + x] == label:
                steps[y, x] = 0
            else:
                steps[y, x] = steps[y - 1, x] + 1 if y else FAR
    for y in range(steps.shape[0] - 2, -1, -1):
        for x in range(steps.shape[1]):
            steps[y, x] = min(steps[y, x], steps[y + 1, x] + 1)
    return steps


@compiled
def _farthest(pixels, box, instances, label, its_box, least_known, most_wanted):
    """The largest squared distance from one of `pixels` to an object, but not less than `least_known`; where it is found to be
    `most_wanted` or more, whatever is known by then."""
    width = instances.shape[1]
    top, bottom, left, right = min(box[0], its_box[0]), max(box[1], its_box[1]), its_box[2], its_box[3]
    steps = _steps(instances, label, top, bottom, left, right)
    largest, row, column, bound = least_known, -1, 0, 0.0
    reach = np.sqrt(largest)
    for place in pixels:
        y, x = place // width, place % width
        if y == row and bound + (x - column) <= reach:
            continue
        nearest_column = min(max(x, left), right)
        away = x - nearest_column
        squared = steps[y - top, nearest_column - left] ** 2 + away * away
        for k in range(1, right - left + 1):
            if squared <= largest:
                break
            useful = False
            for side in (nearest_column - k, nearest_column + k):
                across = (x - side) * (x - side)
                if left <= side <= right and across < squared:
                    useful = True
                    squared = min(squared, steps[y - top, side - left] ** 2 + across)
            if not useful:
                break
        row, column, bound = y, x, np.sqrt(squared)
        if squared > largest:
            largest, reach = squared, bound
            if largest >= most_wanted:
                break
    return largest


@compiled
def _squared(i, j, mine, places, starts, boxes, theirs, their_places, their_starts, their_boxes, most_wanted):
    """Squared Hausdorff distance of object i of one map and j of the other, or `most_wanted` or more."""
    farthest = 0
    for _ in range(2):  # there and back: one call of a large kernel in place of two, which compiles in half the time
        if farthest < most_wanted:
            farthest = _farthest(places[starts[i] : starts[i + 1]], boxes[i], theirs, j, their_boxes[j], farthest, most_wanted)
        i, j, mine, theirs = j, i, theirs, mine
        places, their_places = their_places, places
        starts, their_starts = their_starts, starts
        boxes, their_boxes = their_boxes, boxes
    return farthest


@compiled
def distances(partners, others_partners, known, mine, places, starts, boxes, theirs, their_places, their_starts, their_boxes):
    """(n + 1,) float64: the distance of each object to its partner in the other map; of one that has none (0) to whatever is nearest.

    `others_partners`, `known`: of the other map, (m + 1,), whose distances are taken over where two are each other's partner.
    """
    result = np.zeros(partners.size)
    bounds = np.empty(their_boxes.shape[0], np.int64)
    for i in range(1, partners.size):
        partner = partners[i]
        if partner and others_partners[partner] == i:
            result[i] = known[partner]
            continue
        # No two sets are nearer than the sides of their boxes: the nearest boxes first, until none can be nearer than what was found.
        for k in range(1, bounds.size):
            bounds[k] = 0
            for side in range(4):
                bounds[k] = max(bounds[k], abs(boxes[i, side] - their_boxes[k, side]))
        best = FAR * FAR
        while True:
            j = partner
            if not partner:
                j = 1
                for k in range(2, bounds.size):
                    j = k if bounds[k] < bounds[j] else j
                if bounds[j] * bounds[j] >= best:
                    break
            best = min(best, _squared(i, j, mine, places, starts, boxes, theirs, their_places, their_starts, their_boxes, best))
            if partner:
                break
            bounds[j] = FAR
        result[i] = np.sqrt(best)
    return result
