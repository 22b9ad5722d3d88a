"""Data sets of images, each loaded completely as tensors."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ardyn.errors import InputError, check_choice
from ardyn.models import IMAGES
from studies.problems import downloads, formats
from studies.problems.downloads import Split
from studies.problems.formats import Images

DatasetName = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn"]
_HASHED_IN_FLOAT64 = ("digits", "mnist", "fashion-mnist")
"""Sets whose checksum is of float64 pixels, for compatibility with stored results; else of
bytes."""


SAMPLES: Mapping[tuple[str, str], int] = {
    ("mnist", "train"): 60_000,
    ("mnist", "test"): 10_000,
    ("fashion-mnist", "train"): 60_000,
    ("fashion-mnist", "test"): 10_000,
    ("cifar10", "train"): 50_000,
    ("cifar10", "test"): 10_000,
    ("cifar100", "train"): 50_000,
    ("cifar100", "test"): 10_000,
    ("svhn", "train"): 73_257,
    ("svhn", "test"): 26_032,
}
"""Number of images in the official sets."""


@dataclass(frozen=True)
class Data:
    """Samples and their labels."""

    inputs: Tensor
    """Pixels in [0, 1], [sample, channel · row · column], channels first."""
    targets: Tensor
    """One-hot labels, [sample, class]."""
    checksum: str
    """SHA-256 of the inputs and labels as loaded."""

    def first(self, count: int) -> tuple[Tensor, Tensor]:
        """The first samples, [count, pixel] and [count, class]; all if there are fewer."""
        return self.inputs[:count], self.targets[:count]

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch without replacement, [size, pixel] and [size, class].

        Raises:
            InputError: a batch larger than the set.
        """
        if not 1 <= size <= len(self.inputs):
            raise InputError(
                f"batch size {size} must lie in 1 … {len(self.inputs)}, the size of the set; use 64"
            )
        rows = torch.randperm(len(self.inputs), generator=generator)[:size]
        return self.inputs[rows], self.targets[rows]


def load(name: DatasetName, dtype: torch.dtype, data_dir: Path | None = None) -> Data:
    """A training set; of the digits, all 1,797 images.

    Args:
        name: "digits" (8 × 8 pixels, included in scikit-learn), or a set whose official files are
            read: "mnist", "fashion-mnist", "cifar10", "cifar100" (the 100 fine classes)
            or "svhn" (the cropped digits, without the extra ones).
        dtype: of the tensors.
        data_dir: the folder whose subfolder of that name has the files. If None, it is that of the
            environment variable ARDYN_DATA; if that is not set, the files are downloaded once.

    Raises:
        InputError: files that are missing, invalid, or cannot be downloaded.
    """
    check_choice("dataset", name, get_args(DatasetName))
    if name == "digits":
        return _data(name, _digits(), dtype)
    return _official(name, ("train",), dtype, data_dir)[0]


def train_and_test(
    name: DatasetName, dtype: torch.dtype, data_dir: Path | None = None
) -> tuple[Data, Data]:
    """The official training and test sets; of the digits, every sixth is a test sample.

    Arguments and errors are those of ``load``.
    """
    check_choice("dataset", name, get_args(DatasetName))
    if name == "digits":
        digits = _digits()
        is_test = np.arange(len(digits.labels)) % 6 == 5
        train, test = (
            _data(name, Images(digits.pixels[rows], digits.labels[rows]), dtype)
            for rows in (~is_test, is_test)
        )
    else:
        train, test = _official(name, ("train", "test"), dtype, data_dir)
    return train, test


def _digits() -> Images:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return Images(pixels.astype(np.uint8), labels)


def _official(
    name: DatasetName, splits: Iterable[Split], dtype: torch.dtype, data_dir: Path | None
) -> list[Data]:
    folder = downloads.locate(name, splits, data_dir)
    found = []
    for split in splits:
        images = formats.read(name, downloads.contents(name, split, folder))
        official = SAMPLES.get((name, split), len(images.labels))
        if len(images.labels) != official:
            raise InputError(
                f"{folder} has {len(images.labels)} {split} images of {name}, and the official set "
                f"has {official}, so that a file is truncated or misnamed; download it again"
            )
        found.append(_data(name, images, dtype))
    return found


def _data(name: DatasetName, images: Images, dtype: torch.dtype) -> Data:
    white = 16 if name == "digits" else 255
    # Converted directly from bytes: a float64 copy of CIFAR-10 would take 1.2 GB.
    inputs = torch.tensor(images.pixels, dtype=dtype).div_(white)
    labels = torch.tensor(images.labels, dtype=torch.int64)
    one_hot = functional.one_hot(labels, IMAGES[name][2]).to(dtype)
    return Data(inputs, one_hot, _checksum(images, white if name in _HASHED_IN_FLOAT64 else None))


def _checksum(images: Images, white: int | None) -> str:
    """SHA-256 of the pixels, as bytes or in float64 after division by white, and of the labels."""
    sha = hashlib.sha256()
    for start in range(0, len(images.pixels), 4096):
        pixels = images.pixels[start : start + 4096]
        sha.update((pixels / white if white else pixels).tobytes())
    sha.update(images.labels.tobytes())
    return sha.hexdigest()


@dataclass(frozen=True)
class Sets:
    """A training set and a test set."""

    train: Data
    test: Data

    @property
    def checksum(self) -> str:
        """SHA-256 of the checksums of both sets."""
        both = self.train.checksum + self.test.checksum
        return hashlib.sha256(both.encode()).hexdigest()

    def to(self, device: torch.device) -> "Sets":
        """The same on a device."""
        return Sets(*(_moved(each, device) for each in (self.train, self.test)))


def _moved(images: Data, device: torch.device) -> Data:
    inputs, targets = images.inputs.to(device), images.targets.to(device)
    return replace(images, inputs=inputs, targets=targets)
