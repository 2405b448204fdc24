"""From the host's memory to a device's. It knows no model; whoever makes numbers on the host sends them by it."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`. A GPU takes it from pinned memory when it gets there: the host does not wait for what is
    queued before, as it would for a copy out of ordinary memory."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
