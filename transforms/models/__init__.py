"""What predicts: backends behind a small interface, their front ends and checkpoints.

Nothing here imports Beam or a stage; frameworks are imported only inside a backend.
"""
