"""The ViT backend: numpy in, dataclass out. torch is imported on loading."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from transforms.errors import CheckpointError
from transforms.models.checkpoint import find_same
from transforms.models.interface import ImageArray, IntArray, ModelOutput

Precision = Literal["auto", "float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]


def resolve_device(device: Device) -> str:
    """``cpu`` or ``cuda``.

    Raises
    ------
    CheckpointError
        If CUDA is asked for and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise CheckpointError("--device=cuda: PyTorch sees no CUDA device; use --device=cpu")
    return "cuda" if device != "cpu" and available else "cpu"


def gpu_bytes(device: Device) -> int | None:
    """Memory of the GPU that a resolved ``cuda`` means; None for the CPU, and for ``auto``."""
    import torch

    if device != "cuda" or not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def resolve_precision(precision: Precision, device: str) -> Literal["float32", "bfloat16"]:
    """The number type to compute in; ``auto`` is bfloat16 where the hardware multiplies it."""
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if not hasattr(torch.cpu, "get_capabilities"):  # an older PyTorch, which cannot tell
        return "float32"
    capabilities = torch.cpu.get_capabilities()
    fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bfloat16" if fast else "float32"


def use_threads(threads: int) -> None:
    """Let PyTorch use so many threads on the CPU, in this whole process."""
    import torch

    torch.set_num_threads(threads)


@functools.lru_cache(maxsize=1)
def load_vit(
    model: str, fingerprint: str, device: Device, precision: Precision, batch_size: int
) -> ViT:
    """Load a checkpoint, once in a process and those that are forked from it.

    Parameters
    ----------
    model : str
        A checkpoint's name or path.
    fingerprint : str
        Of the checkpoint: another one there is refused.
    device, precision, batch_size
        As for :class:`ViT`.

    Raises
    ------
    WorkerError
        If that checkpoint is not on this machine.
    CheckpointError
        As :class:`ViT`.
    """
    folder = find_same(model, fingerprint)
    return ViT(folder, device=device, precision=precision, batch_size=batch_size)


class ViT:
    """A checkpoint of transformers' ``ViTForImageClassification``, for inference.

    Parameters
    ----------
    folder : Path
        Checkpoint with config.json and model.safetensors.
    device : {"auto", "cpu", "cuda"}
    precision : {"auto", "float32", "bfloat16"}
    batch_size : int
        Images per call that the weights are laid out for; others are computed, too.

    Raises
    ------
    CheckpointError
        If the weights do not fit the configuration, or the device is missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: Device = "auto",
        precision: Precision = "auto",
        batch_size: int = 8,
    ) -> None:
        import torch

        from transforms.models.vit_network import ViTNetwork

        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        with torch.inference_mode():
            self._network = ViTNetwork(
                folder, device=self.device, dtype=dtype, batch_size=batch_size
            )

    def predict(self, images: ImageArray, content_frames: IntArray | None = None) -> ModelOutput:
        """Log-probabilities and embeddings of a batch.

        Parameters
        ----------
        images : float32 or float16, shape (images, height, width), in [-1, 1]
            The value of all of the model's channels.
        content_frames : optional
            Not looked at: a ViT sees the whole image.

        Returns
        -------
        ModelOutput
            Embeddings are the class token in front of the classifier.
        """
        import torch

        with torch.inference_mode():
            logits, embeddings = self._network(self._copied(torch.from_numpy(images)))
            log_probs = torch.log_softmax(logits.double(), dim=-1)
            return ModelOutput(log_probs.float().cpu().numpy(), embeddings.cpu().numpy())

    def _copied(self, images: Any) -> Any:
        """The images as float32 on the device; a GPU fetches them out of pinned memory itself."""
        if self.device == "cuda":
            images = images.pin_memory().to(self.device, non_blocking=True)
        return images.float()
