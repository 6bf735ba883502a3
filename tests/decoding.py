"""Decode a file and check what every decoded file must fulfil."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.audio_files import lag_and_likeness
from transforms.audio.decoders import open_audio
from transforms.audio.readers import AudioInfo
from transforms.errors import Reason, StageError


def decode(path, **options) -> tuple[np.ndarray, AudioInfo, tuple[str, ...]]:
    with open_audio(path, **options) as audio:
        blocks = list(audio.blocks())
        samples = np.concatenate(blocks)
        assert all(b.dtype == np.float32 and b.ndim == 2 and len(b) for b in blocks)
        assert audio.frames == len(samples)
        assert samples.shape[1] == audio.info.channels
        return samples, audio.info, audio.warnings


def reason_of(path) -> Reason:
    with pytest.raises(StageError) as caught:
        decode(path)
    assert caught.value.message
    return caught.value.reason


def check_content(decoded, original, tolerance) -> None:
    if tolerance is None:
        lag, likeness = lag_and_likeness(decoded, original, 2_400)
        assert likeness > 0.95, (lag, likeness)
    else:
        np.testing.assert_allclose(decoded, original, rtol=0, atol=tolerance)


def damaged(path, change) -> Path:
    content = bytearray(path.read_bytes())
    path.write_bytes(change(content))
    return path
