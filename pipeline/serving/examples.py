"""Answers as they came from a server with the shipped models, for the OpenAPI description."""

from __future__ import annotations

import dataclasses
from typing import Any

from transforms.records import PredictionRow

_SHA256 = "3beb7fe08b26e6bfc620a8284b8702e62a810be9968543f1f60bc0cc4a8f3b48"
_RUN_ID = "20261122T091624Z-6804db"
_SCORES = [0.0576264225, 0.5150434374, 0.0904080123, 0.3369221091]

LABELLED_FILE: dict[str, Any] = {
    "prediction": {
        **{field.name: None for field in dataclasses.fields(PredictionRow)},
        "uri": "song.wav",
        "content_sha256": _SHA256,
        "size_bytes": 793_844,
        "duration_s": 9.0,
        "sample_rate_hz": 22_050,
        "channels": 2,
        "container": "wav",
        "codec": "pcm_s16",
        "decoder": "soundfile",
        "decode_warnings": [],
        "label": "electronic",
        "confidence": _SCORES[1],
        "top_k": [
            {"label": "electronic", "score": _SCORES[1]},
            {"label": "rock", "score": _SCORES[3]},
        ],
        "scores": _SCORES,
        "window_count": 1,
        "model_fingerprint": "7afaed47cc66175e-bfloat16",
        "front_end_fingerprint": "39fec486660abcc9",
        "pipeline_version": "0.1.0",
        "run_id": _RUN_ID,
        "labelled_at": "2026-11-22T09:16:25.403041+00:00",
    },
    "windows": [
        {
            "uri": "song.wav",
            "content_sha256": _SHA256,
            "window_index": 0,
            "start_s": 0.0,
            "end_s": 9.0,
            "label": "electronic",
            "confidence": _SCORES[1],
            "scores": _SCORES,
            "run_id": _RUN_ID,
        }
    ],
    "from_cache": False,
}

SERVED: dict[str, Any] = {
    "version": "0.1.0",
    "models": [
        {
            "name": "genre-vit",
            "task": "label",
            "model_fingerprint": "7afaed47cc66175e-bfloat16",
            "front_end_fingerprint": "39fec486660abcc9",
            "labels": ["classical", "electronic", "pop", "rock"],
            "unknown_threshold": 0.4203300178,
            "sample_rate_hz": 22_050,
            "window_seconds": 10.0,
            "precision": "bfloat16",
            "device": "cpu",
        }
    ],
    "limits": {
        "upload_bytes": 209_715_200,
        "batch_files": 32,
        "audio_seconds": 3_600.0,
        "request_seconds": 120.0,
        "in_work": 64,
    },
}
