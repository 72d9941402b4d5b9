"""Procedural landscapes: the same words and seed give the same picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def draw_scene(width: int, height: int, prompt: str, seed: int) -> NDArray[np.float32]:
    """Return a picture [height, width, 3] in 0..1."""
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    rng = np.random.default_rng([seed, len(prompt)])
    top, bottom = rng.random(3), rng.random(3)
    return np.broadcast_to(top * (1 - y) + bottom * y, (height, width, 3)).astype(np.float32)
