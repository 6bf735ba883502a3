"""Which device and which numbers a checkpoint is computed with, and how rows tell of it."""

from __future__ import annotations

from typing import cast

from transforms.errors import UsageError
from transforms.models.checkpoint import SEQUENCE, Checkpoint
from transforms.models.vit import Device, Precision, resolve_device, resolve_precision


def resolve_arithmetic(
    checkpoint: Checkpoint, device: str, precision: str, *, on_this_machine: bool = True
) -> tuple[Device, Precision]:
    """Device and number type for all workers: a row must not depend on which one made it.

    The machines of a cluster may differ from this one and from each other, so that "auto" is
    float32 there, which all of them have.

    Parameters
    ----------
    checkpoint : Checkpoint
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
    on_this_machine : bool
        Whether all workers are on it.

    Raises
    ------
    UsageError
        If a recogniser is asked for what it does not compute with.
    """
    if checkpoint.model_type == SEQUENCE:
        for option, value, known in (
            ("device", device, "cpu"),
            ("precision", precision, "float32"),
        ):
            if value not in ("auto", known):
                raise UsageError(
                    f"--{option}={value}: --model={checkpoint.name} is a recogniser, which "
                    f"computes on the CPU in float32; use --{option}={known}"
                )
        return "cpu", "float32"
    asked = cast(Precision, precision)
    if not on_this_machine:
        return cast(Device, device), "float32" if asked == "auto" else asked
    resolved = cast(Device, resolve_device(cast(Device, device)))
    return resolved, resolve_precision(asked, resolved)


def model_fingerprint(checkpoint: Checkpoint, precision: Precision) -> str:
    """The checkpoint's, marked where scores are not those of float32."""
    return checkpoint.fingerprint + ("" if precision == "float32" else f"-{precision}")
