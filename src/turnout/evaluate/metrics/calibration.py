"""Whether a model is as often right as it is sure.

Axes: N examples, C candidates, R resamplings.
"""

import numpy as np
from jaxtyping import Float64

from turnout.evaluate.metrics.measure import Measure, mean

BINS = 15  # of equal width over [0, 1], as Guo et al. (1706.04599) take


def probabilities(logs: tuple[float, ...]) -> Float64[np.ndarray, " C"]:
    """Of the candidates: the softmax of their log-likelihoods."""
    given = np.array(logs, dtype=np.float64)
    shifted = np.exp(given - given.max())
    found: Float64[np.ndarray, " C"] = shifted / shifted.sum()
    return found


def calibration_error(confidence: list[float], right: list[bool]) -> Measure:
    """ECE (1706.04599, equation 3): ``sum_b |B_b| / n |acc(B_b) - conf(B_b)|``, where bin b holds
    the examples with a confidence in ((b - 1) / 15, b / 15]."""
    sure = np.array(confidence, dtype=np.float64)
    place = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    numbers = np.zeros((len(sure), 3, BINS))
    rows = np.arange(len(sure))
    for kind, value in enumerate((np.ones_like(sure), sure, np.array(right, np.float64))):
        numbers[rows, kind, place] = value
    return Measure("ece", numbers.reshape(len(sure), -1), _error, higher=False)


def brier(found: list[tuple[Float64[np.ndarray, " C"], int]]) -> Measure:
    """Brier (1950): ``sum_c (p_c - [c is right])^2`` over the candidates, from 0 to 2."""
    scores = []
    for probability, answer in found:
        wanted = np.zeros_like(probability)
        wanted[answer] = 1.0
        scores.append(float(np.square(probability - wanted).sum()))
    return mean("brier", scores, higher=False)


def _error(sums: Float64[np.ndarray, "R K"]) -> Float64[np.ndarray, " R"]:
    count, confidence, right = np.moveaxis(sums.reshape(-1, 3, BINS), 1, 0)
    found: Float64[np.ndarray, " R"] = np.abs(right - confidence).sum(1) / count.sum(1)
    return found
