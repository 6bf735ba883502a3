"""Throughput against other ways to label the same tracks, and against the hardware's floor."""
