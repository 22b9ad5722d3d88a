"""Data sets: whole, as tensors."""

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from ardyn import InputError

DatasetName = Literal["digits", "mnist", "fashion-mnist"]


@dataclass(frozen=True)
class Data:
    """Samples and their labels."""

    inputs: Tensor
    """Pixels in [0, 1], [sample, pixel]."""
    targets: Tensor
    """One-hot labels, [sample, class]."""
    checksum: str
    """SHA-256 of the inputs and labels as loaded."""

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch without repeats, [size, pixel] and [size, class].

        Raises:
            InputError: a batch larger than the set.
        """
        if not 1 <= size <= len(self.inputs):
            raise InputError(f"batch size {size} must lie in 1 … {len(self.inputs)}, the whole set")
        rows = torch.randperm(len(self.inputs), generator=generator)[:size]
        return self.inputs[rows], self.targets[rows]


def load(name: DatasetName, dtype: torch.dtype, data_dir: Path | None = None) -> Data:
    """A training set.

    Args:
        name: "digits" (1,797 real 8 × 8 digits, bundled with scikit-learn), or "mnist" or
            "fashion-mnist" from the four IDX files in a folder of that name.
        dtype: of the tensors.
        data_dir: the folder above; else the environment variable ARDYN_DATA says where it is.

    Raises:
        InputError: files that are missing or not what they should be.
    """
    if name == "digits":
        pixels, labels = load_digits(return_X_y=True)
        pixels = pixels / 16
    else:
        folder = _folder(data_dir) / name
        pixels = _read_idx(folder / "train-images-idx3-ubyte") / 255
        labels = _read_idx(folder / "train-labels-idx1-ubyte")
        if len(pixels) != len(labels):
            raise InputError(f"{folder} holds {len(pixels)} images but {len(labels)} labels")
    pixels = pixels.reshape(len(pixels), -1)
    checksum = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    one_hot = functional.one_hot(torch.from_numpy(labels.astype(np.int64)), 10)
    return Data(torch.from_numpy(pixels).to(dtype), one_hot.to(dtype), checksum)


def _folder(data_dir: Path | None) -> Path:
    if data_dir is None and not os.environ.get("ARDYN_DATA"):
        raise InputError(
            "this data set is not bundled; pass --data-dir, or set ARDYN_DATA, to the folder that "
            "holds it"
        )
    return data_dir or Path(os.environ["ARDYN_DATA"])


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes, gzipped or not: magic 0 0 8 ndim, the big-endian shape, the bytes."""
    gzipped = path.with_name(path.name + ".gz")
    try:
        content = path.read_bytes() if path.exists() else gzip.decompress(gzipped.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(f"cannot read {path} or {gzipped.name} ({error}); put it there") from error
    dimensions = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * dimensions
    shape = np.frombuffer(content[4:start], ">u4") if dimensions else np.zeros(0)
    if dimensions == 0 or len(content) - start != np.prod(shape):
        raise InputError(f"{path} is not a whole IDX file of bytes; fetch it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
