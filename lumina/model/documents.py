"""Which documents lie where in the rows of a batch: worked out once, for every layer, and where the host can, on the
host, so that no layer asks the device. It knows no layer."""

# B sequences   T tokens   C chosen tokens   R tokens that are no padding   S documents, each run of padding for one
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lumina.model.layers import positions_of
from lumina.model.transfer import sent


@dataclass(frozen=True)
class Documents:
    """`number_BT` numbers the documents of a row, -1 is padding behind them; `place_BT` counts within a document.

    `real_BT` is False at padding, and `real_R` are the other tokens of the flattened batch; None where nothing is
    padding. `start_S1` (int32) is where each document begins in the flattened batch, and the end of the last, and none
    is longer than `longest`; None where the host was not asked.
    """

    number_BT: Tensor
    place_BT: Tensor
    real_BT: Tensor | None = None
    real_R: Tensor | None = None
    start_S1: Tensor | None = None
    longest: int = 0

    @classmethod
    def on_device(cls, number_BT: Tensor, padded: bool) -> Documents:
        """From numbers that are on the device already."""
        if not padded:
            return cls(number_BT, positions_of(number_BT))
        real_BT = number_BT >= 0
        return cls(number_BT, positions_of(number_BT), real_BT, real_BT.reshape(-1).nonzero().squeeze(1))

    @classmethod
    def from_host(cls, number_BT: NDArray[np.integer[Any]], device: torch.device) -> Documents:
        """Sends the numbers to the device, and what follows from them; the device is not waited for."""
        flat = number_BT.reshape(-1)
        begins = np.ones(number_BT.shape, dtype=bool)
        begins[:, 1:] = number_BT[:, 1:] != number_BT[:, :-1]
        start = np.append(np.flatnonzero(begins), flat.size).astype(np.int32)
        number = sent(torch.from_numpy(np.ascontiguousarray(number_BT, dtype=np.int64)), device)
        real_BT = real_R = None
        if (flat < 0).any():
            real_BT, real_R = number >= 0, sent(torch.from_numpy(np.flatnonzero(flat >= 0)), device)
        longest = int(np.diff(start).max(initial=0))
        return cls(number, positions_of(number), real_BT, real_R, sent(torch.from_numpy(start), device), longest)

    def chosen(self, at_BC: Tensor, whole: bool) -> Documents:
        """Those of the tokens at `at_BC` of each row. With `whole` these are in the order of their positions, so that
        each document's stand together; some documents may have none."""
        number_BC, place_BC = self.number_BT.gather(1, at_BC), self.place_BT.gather(1, at_BC)
        if self.start_S1 is None or not whole:
            return Documents(number_BC, place_BC)
        document_BT = ((self.place_BT == 0).reshape(-1).cumsum(0) - 1).view(self.place_BT.shape)
        begun_BC = document_BT.gather(1, at_BC).reshape(-1)
        count_S1 = torch.zeros(self.start_S1.shape, dtype=torch.int64, device=at_BC.device)
        start_S1 = count_S1.scatter_add(0, begun_BC + 1, torch.ones_like(begun_BC)).cumsum(0).to(torch.int32)
        return Documents(number_BC, place_BC, start_S1=start_S1, longest=min(self.longest, at_BC.shape[1]))
