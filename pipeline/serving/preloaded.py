"""What the server that workers are forked from imports before anything else."""

from pipeline.logs import set_up_logging

set_up_logging()  # first: Beam's import warns of what nobody misses

import pipeline.serving.worker  # noqa: E402, F401
