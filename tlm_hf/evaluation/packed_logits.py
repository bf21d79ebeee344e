"""Logits in small files: what a softmax needs, in steps of 1/128."""

import numpy as np

LOGIT_STEP = 1 / 128
"""Logits are kept as multiples of this: differences of a hundredth decide next to nothing, and files stay small."""


def pack_logits(logits: np.ndarray) -> np.ndarray:
    """Distances below each row's largest logit, in units of `LOGIT_STEP`: uint16 (..., classes); softmax is kept.

    Only the largest one (the first of equals) is at 0, so that rounding changes no decision.
    """
    below = np.rint((logits.max(axis=-1, keepdims=True) - logits) / LOGIT_STEP)
    first = np.arange(logits.shape[-1]) == logits.argmax(axis=-1)[..., None]
    return np.clip(below, np.where(first, 0, 1), np.iinfo(np.uint16).max).astype(np.uint16)


def unpack_logits(packed: np.ndarray) -> np.ndarray:
    """Logits (..., classes), float64, the largest of each row 0."""
    return -packed.astype(np.float64) * LOGIT_STEP
