"""The programs: options, configuration, wiring; one module for each thing a person starts."""

__version__ = "0.1.0"
