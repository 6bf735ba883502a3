"""The file from which an interrupted training goes on: safetensors, with facts as JSON, no pickle.

A training is the same whether it was interrupted or not, so its state is everything that one step
or epoch hands to the next: weights, averages, the optimiser's moments, and what was measured.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from transforms.errors import CatalogError, CheckpointError

if TYPE_CHECKING:
    import torch

    Tensors: TypeAlias = dict[str, torch.Tensor]

_FACTS, _SETTINGS = "facts", "settings"  # keys of the file's metadata
_REMEDY = "remove it to train from the beginning"


def write_state(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    facts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """Write a state, at once or not at all.

    Parameters
    ----------
    path : Path
    tensors : dict of tensors
    facts : dict
        What JSON can say.
    settings : dict
        Of the training: a state is of no use to one with others.
    """
    from safetensors.torch import save_file

    draft = path.with_suffix(".draft")
    # Copies, since an average may still be the best one: safetensors refuses shared memory.
    copies = {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {_FACTS: json.dumps(facts), _SETTINGS: json.dumps(settings)}
    save_file(copies, draft, metadata=metadata)
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def read_state(path: Path, settings: Mapping[str, Any]) -> tuple[Tensors, dict[str, Any]] | None:
    """The tensors and facts of a state, or None where there is none.

    Raises
    ------
    CheckpointError
        If the file is damaged, or of a training with other settings.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
            # Clones lie as torch's own tensors do, so that vectorised sums round alike.
            tensors = {n: content.get_tensor(n).clone() for n in content.keys()}  # noqa: SIM118
        facts, stated = (json.loads(metadata[key]) for key in (_FACTS, _SETTINGS))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not the state of an interrupted training ({error}); {_REMEDY}"
        ) from error
    if stated != json.loads(json.dumps(settings)):
        raise CheckpointError(f"{path}: of a training with other settings; {_REMEDY}")
    return tensors, facts


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors whose names begin with ``prefix``, without it."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def optimiser_tensors(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, torch.nn.Parameter]
) -> Tensors:
    """What an optimiser keeps of each parameter, as ``optimiser.KEY.PARAMETER``."""
    return {
        f"optimiser.{key}.{name}": value
        for name, parameter in parameters.items()
        for key, value in optimiser.state[parameter].items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Give an optimiser what :func:`optimiser_tensors` gave."""
    for place, value in under("optimiser.", tensors).items():
        key, name = place.split(".", 1)
        optimiser.state[parameters[name]][key] = value


def refuse_diverged(
    when: str, losses: Mapping[str, float], weights: Iterable[torch.Tensor]
) -> None:
    """Raise CatalogError if a loss or a weight is not finite: nothing mends such a training."""
    if not all(map(math.isfinite, losses.values())):
        told = ", ".join(f"{name.replace('_', ' ')} {loss:g}" for name, loss in losses.items())
    elif not all(bool(weight.isfinite().all()) for weight in weights):
        told = "weights that are no numbers"
    else:
        return
    raise CatalogError(
        f"the training diverged in {when} ({told}); remove its folder and train a smaller model, "
        "or with another --seed"
    )
