"""The web app and its API: one process that answers, and workers that decode and compute."""
