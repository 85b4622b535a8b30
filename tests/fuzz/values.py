"""Values of many kinds, each of which is wrong for nearly every argument."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "0": lambda: 0,
    "-1": lambda: -1,
    "1.5": lambda: 1.5,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "10**30": lambda: 10**30,
    "no text": lambda: "",
    "text": lambda: "x",
    "long text": lambda: "x" * 5000,
    "text with NUL": lambda: "a\0b",
    "lone surrogate": lambda: "\ud800",
    "bytes": lambda: b"x",
    "empty list": list,
    "list of a float": lambda: [1.5],
    "list of a bool": lambda: [True],
    "list of text": lambda: ["x"],
    "list of None": lambda: [None],
    "ragged list": lambda: [[1.0], [1.0, 2.0]],
    "empty dict": dict,
    "dict": lambda: {"x": 1.5},
    "set": set,
    "object": object,
    "class": lambda: int,
    "function": lambda: lambda *arguments, **named: None,
    "generator": lambda: (value for value in (1.5, "x")),
    "empty tensor": lambda: torch.empty(0),
    "number in a tensor": lambda: torch.tensor(0.5),
    "NaN tensor": lambda: torch.full((2, 2), math.nan),
    "infinite tensor": lambda: torch.full((2, 2), math.inf),
    "int64 tensor": lambda: torch.tensor([[1, 2]]),
    "bool tensor": lambda: torch.tensor([[True, False]]),
    "float16 tensor": lambda: torch.ones(2, dtype=torch.float16),
    "complex tensor": lambda: torch.ones(2, 2, dtype=torch.complex64),
    "tensor of rank 5": lambda: torch.ones(1, 1, 1, 1, 1),
    "tensor without data": lambda: torch.ones(2, 2, device="meta"),
    "sparse tensor": lambda: torch.eye(2).to_sparse(),
    "float64 array": lambda: np.array([0.5, 1.5]),
    "int64 array": lambda: np.array([[1, 2]]),
    "array of text": lambda: np.array(["x", "y"]),
    "array of objects": lambda: np.array([None, object()], dtype=object),
    "module": lambda: torch.nn.utils.skip_init(torch.nn.Linear, 2, 2),  # draws nothing
    "missing path": lambda: Path("missing") / "path",
}
