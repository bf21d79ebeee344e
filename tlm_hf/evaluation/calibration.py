"""Temperature fitted on held-out data (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature that minimises the negative log-likelihood of softmax(logits / temperature).

    Args:
        logits: float (n, classes); for a committee the log of the mean probability, so that the temperature is fitted
            after averaging.
        labels: int (n,).

    Returns:
        A temperature in [0.05, 20].
    """
    rows = np.arange(len(labels))

    def negative_log_likelihood(log_temperature: float) -> float:
        return float(-log_softmax(logits / np.exp(log_temperature), axis=-1)[rows, labels].mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=bounds, method="bounded").x))


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equal-width confidence bins, weighted by their size, in [0, 1]."""
    probabilities = np.exp(log_softmax(logits, axis=-1))
    confidence, correct = probabilities.max(axis=-1), probabilities.argmax(axis=-1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (places == place).mean() * abs(confidence[places == place].mean() - correct[places == place].mean())
        for place in np.unique(places)
    ]
    return float(np.sum(gaps))
