"""Live streams: blocks of sound in, rows of running labels out; docs/streaming.md says how."""
