"""Tensors in JSON: exactly, and on one line."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def packed(tensor: Tensor) -> dict[str, Any]:
    """A tensor as plain data, exactly: its dtype, its shape and its bytes (little-endian)."""
    values = tensor.detach().cpu().contiguous().numpy()
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    text = base64.b64encode(content).decode("ascii")
    return {"dtype": str(values.dtype), "shape": list(values.shape), "base64": text}


def unpacked(data: Mapping[str, Any]) -> Tensor:
    """The tensor that ``packed`` was given.

    Raises:
        KeyError, TypeError, ValueError: Data of another form.
    """
    dtype = np.dtype(data["dtype"])
    content = base64.b64decode(data["base64"], validate=True)
    values = np.frombuffer(content, dtype.newbyteorder("<")).reshape(data["shape"])
    return torch.from_numpy(values.astype(dtype))
