"""How a case is predicted (resized, whole, by window) and scored (by case, by image, by one confusion matrix), once for training, tests
and new images; streamed, so that a set of any size passes.

May import: `dataloaders`, `metrics`. Networks come as callables.
"""
from inference.cases import Cases, predicted
from inference.predicting import Inference, inference_of
from inference.scoring import Summary, score_of
from inference.validation import Validator
from inference.windows import Predictor

__all__ = ["Cases", "Inference", "Predictor", "Summary", "Validator", "inference_of", "predicted", "score_of"]
