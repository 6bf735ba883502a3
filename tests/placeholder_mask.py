"""In place of an enhancer's model: one that masks by rule, and remembers."""

from __future__ import annotations

import numpy as np


class ConstantMask:
    """The same mask for all frames: a number, or one for each bin."""

    def __init__(self, value, bins):
        self._mask = np.broadcast_to(np.asarray(value, np.float32), (bins,))

    def initial_state(self, batch=1):
        return {}

    def step(self, frames, state):
        return np.broadcast_to(self._mask, frames.shape).copy(), {}


class CountingMask:
    """A mask that falls with the number of frames so far: any cut must keep count."""

    def initial_state(self, batch=1):
        return {"seen": np.zeros((batch, 1), np.float32)}

    def step(self, frames, state):
        numbers = state["seen"] + np.arange(frames.shape[1], dtype=np.float32)
        mask = 1 / (1 + numbers[:, :, None] * np.ones(frames.shape[2], np.float32) / 10)
        return mask, {"seen": state["seen"] + np.float32(frames.shape[1])}
