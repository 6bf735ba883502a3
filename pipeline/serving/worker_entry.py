"""Where worker processes begin; the process that answers imports this, and not what they import."""

from __future__ import annotations

from multiprocessing.connection import Connection

from pipeline.serve_config import ServeConfig


def sound_worker(connection: Connection, prepared: bytes) -> None:
    """See pipeline.serving.worker.run_sound_worker."""
    from pipeline.serving.worker import run_sound_worker

    run_sound_worker(connection, prepared)


def model_worker(connection: Connection, config: ServeConfig, threads: int) -> None:
    """See pipeline.serving.worker.run_model_worker."""
    from pipeline.serving.worker import run_model_worker

    run_model_worker(connection, config, threads)
