"""The published recipe without librosa and without torch's resize, and what it scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
import torch
from PIL import Image
from transformers import ViTForImageClassification
from transformers.audio_utils import mel_filter_bank

TOLERANCE = 1e-4
BFLOAT16_TOLERANCE = 0.1  # eight bits of mantissa, and scores that are far from even


def image_by_hand(path: Path) -> np.ndarray:
    """The recipe without librosa and without torch: numpy's FFT, PIL's resize."""
    samples, rate = sf.read(path, always_2d=True)
    mono = samples.mean(axis=1)
    mono = mono if rate == 22_050 else soxr.resample(mono, rate, 22_050, quality="HQ")
    mono = np.pad(mono, (1_024, 1_024 + 1))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2_048) / 2_048)
    starts = range(0, len(mono) - 2_048, 512)
    spectrum = np.stack([np.fft.rfft(window * mono[at : at + 2_048]) for at in starts], axis=1)
    filters = mel_filter_bank(1_025, 128, 0.0, 8_000.0, 22_050, norm="slaney", mel_scale="slaney")
    power = filters.T @ np.abs(spectrum) ** 2
    decibels = 10 * np.log10(np.maximum(power, 1e-10))
    decibels = np.maximum(decibels - decibels.max(), -80).astype(np.float32)
    return np.array(Image.fromarray(decibels).resize((224, 224), Image.Resampling.BILINEAR))


def scores_by_hand(model: Path, tracks: list[Path]) -> dict[str, np.ndarray]:
    """Scores of each track in float64."""
    vit = ViTForImageClassification.from_pretrained(model).double().eval()
    scores = {}
    for path in tracks:
        pixels = torch.from_numpy(image_by_hand(path)).double()[None, None] / 40 + 1
        with torch.no_grad():
            logits = vit(pixels.expand(-1, 3, -1, -1)).logits[0].numpy()
        scores[str(path)] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return scores


def assert_scored(scored, expected, tolerance=TOLERANCE) -> None:
    found = dict(scored)
    assert found.keys() == expected.keys()
    for path, scores in found.items():
        np.testing.assert_allclose(scores, expected[path], atol=tolerance)


def strings(tracks: list[Path]) -> list[str]:
    return [str(path) for path in tracks]
