"""Overlap and surface-distance metrics: NumPy arrays in, plain numbers out.

    scores = [score_case(prediction, reference, num_classes, spacing) for ...]      one dict a class, for each case
    summarize(scores, class_names)                                                  means, missed structures counted

`surface` has the definitions of HD95 and ASD, `scores` says what an empty class counts, `overlap` has what is summed over a data
set, `defects` what is counted by image, `objects` how objects that are told apart are scored.
"""
from metrics.components import largest_component
from metrics.defects import image_detection, image_flags, simeps_metrics
from metrics.instances import instances_of
from metrics.objects import object_scores, object_sums
from metrics.overlap import confusion_matrix, dataset_overlap, dice, jaccard
from metrics.scores import published_convention, score_case, score_counts, summarize
from metrics.surface import SurfaceMetrics, binary_metrics

__all__ = [
    "SurfaceMetrics", "binary_metrics", "confusion_matrix", "dataset_overlap", "dice", "image_detection", "image_flags", "instances_of",
    "jaccard", "largest_component", "object_scores", "object_sums", "published_convention", "score_case", "score_counts",
    "simeps_metrics", "summarize",
]
