"""Compare a run's scores with those of plain librosa and transformers, track by track.

    python -m benchmarks.random_vit --output=/tmp/vit-b16
    python -m pipeline.main --input=FOLDER --output=/tmp/labels --model=/tmp/vit-b16 \
        --front_end=ccmusic --windows=whole --precision=float32
    python -m benchmarks.compare_reference --model=/tmp/vit-b16 --output=/tmp/labels

The reference is written with nothing of this project: librosa loads, resamples, makes the mel
spectrogram and the decibels; torch resizes; transformers scores.
"""

from __future__ import annotations

import argparse

import librosa
import numpy as np
import pyarrow.dataset as ds
import torch
from transformers import ViTForImageClassification

TOLERANCE = 1e-4


def reference_scores(path: str, model: ViTForImageClassification) -> np.ndarray:
    """Scores (labels,) of a whole track squeezed into one image, the 16-genre recipe."""
    samples, rate = librosa.load(path, sr=22_050, mono=True)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=rate, n_fft=2048, hop_length=512, n_mels=128, fmax=8000
    )
    decibels = torch.from_numpy(librosa.power_to_db(mel, ref=np.max))
    image = torch.nn.functional.interpolate(
        decibels[None, None], size=(224, 224), mode="bilinear", antialias=True
    )
    pixels = (image / 40 + 1).expand(-1, 3, -1, -1)  # -80..0 dB to -1..1
    with torch.inference_mode():
        return model(pixels).logits.softmax(dim=-1)[0].numpy()


def main() -> None:
    """Print each track's largest difference; exit with status 1 if one is over the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, metavar="CHECKPOINT")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="of a finished run")
    options = parser.parse_args()
    model = ViTForImageClassification.from_pretrained(options.model).eval()
    rows = ds.dataset(f"{options.output}/predictions").to_table(["uri", "scores"]).to_pylist()
    worst = 0.0
    for row in rows:
        difference = np.abs(reference_scores(row["uri"], model) - row["scores"]).max()
        worst = max(worst, float(difference))
        print(f"{difference:.2e}  {row['uri']}")
    print(f"{len(rows)} tracks, largest difference {worst:.2e}, tolerance {TOLERANCE:.0e}")
    raise SystemExit(worst > TOLERANCE or not rows)


if __name__ == "__main__":
    main()
