"""The official file formats of image data sets: reading, and checks of the files.

IDX: http://yann.lecun.com/exdb/mnist, CIFAR: https://www.cs.toronto.edu/~kriz/cifar.html, SVHN's
cropped digits: http://ufldl.stanford.edu/housenumbers.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ardyn import InputError

_MAGIC = {"images": 2051, "labels": 2049}
"""First four bytes of an IDX file of bytes: 0, 0, 8 and the number of dimensions."""
_COLOURS = 3 * 32 * 32


@dataclass(frozen=True)
class Images:
    """Images and labels as stored in a file."""

    pixels: NDArray[np.uint8]
    """[sample, channel · row · column], channels first."""
    labels: NDArray[np.integer[Any]]
    """[sample], from 0."""


class File(NamedTuple):
    """A decompressed file; that of a file in an archive is archive/name."""

    path: Path
    content: bytes


def read(name: str, files: list[File]) -> Images:
    """The images of one split of a data set, from its files in the order of its ``Layout``.

    Raises:
        InputError: a file that is truncated, or not of the expected format.
    """
    return _READERS[name](files)


def _read_idx(files: list[File]) -> Images:
    images, labels = files
    pixels, classes = _idx(images, "images"), _idx(labels, "labels")
    if pixels.shape[1:] != (28, 28):
        size = " × ".join(map(str, pixels.shape[1:]))
        raise InputError(
            f"{images.path} has images of {size} pixels, not 28 × 28; download it again"
        )
    if len(pixels) != len(classes):
        raise InputError(
            f"{images.path} and {labels.path.name} have {len(pixels)} images but {len(classes)} "
            "labels; download both again"
        )
    _check_labels(labels.path, classes, 0, 9)
    return Images(pixels.reshape(len(pixels), -1), classes)


def _idx(file: File, kind: Literal["images", "labels"]) -> NDArray[np.uint8]:
    magic = int.from_bytes(file.content[:4])
    if magic != _MAGIC[kind]:
        raise InputError(
            f"{file.path} begins with {magic}, but IDX files of {kind} begin with {_MAGIC[kind]}; "
            f"put the {kind} there"
        )
    start = 4 + 4 * (magic & 0xFF)
    shape = np.frombuffer(file.content[4:start].ljust(start - 4, b"\0"), ">u4").tolist()
    if len(file.content) != start + math.prod(shape):
        raise InputError(
            f"{file.path} has {len(file.content)} bytes, but {start + math.prod(shape)} according "
            f"to its header; download it again"
        )
    return np.frombuffer(file.content, np.uint8, offset=start).reshape(shape)


def _read_cifar(files: list[File], classes: tuple[int, ...]) -> Images:
    """Images of files of records: a label for each number of classes, coarse to fine; pixels."""
    records = [_records(file, classes) for file in files]
    pixels = np.concatenate([r[:, len(classes) :] for r in records])
    return Images(pixels, np.concatenate([r[:, len(classes) - 1] for r in records]))


def _records(file: File, classes: tuple[int, ...]) -> NDArray[np.uint8]:
    """[sample, label and pixel]."""
    size = len(classes) + _COLOURS
    if len(file.content) % size:
        raise InputError(
            f"{file.path} has {len(file.content)} bytes, not a multiple of {size}, the size of "
            "one image and its labels; download it again"
        )
    records = np.frombuffer(file.content, np.uint8).reshape(-1, size)
    for column, count in enumerate(classes):
        _check_labels(file.path, records[:, column], 0, count - 1)
    return records


def _read_svhn(files: list[File]) -> Images:
    [file] = files
    X, y = _mat(file)
    n = y.shape[0]
    whole_numbers = X.dtype == np.uint8 and np.issubdtype(y.dtype, np.integer)
    if not whole_numbers or X.shape != (32, 32, 3, n) or y.shape != (n, 1):
        raise InputError(
            f"{file.path} has X {X.dtype} {list(X.shape)} and y {y.dtype} {list(y.shape)}, not X "
            "uint8 [32, 32, 3, n] and whole numbers y [n, 1]; download the cropped digits again"
        )
    _check_labels(file.path, y, 1, 10)
    # Label 10 is the digit 0.
    return Images(X.transpose(3, 2, 0, 1).reshape(n, -1), y[:, 0].astype(np.uint8) % 10)


def _mat(file: File) -> tuple[NDArray[Any], NDArray[Any]]:
    """The variables X and y of a MATLAB file."""
    from scipy.io import loadmat

    try:
        variables = loadmat(io.BytesIO(file.content), variable_names=("X", "y"))
    # On a damaged file scipy raises errors of almost any type.
    except Exception as error:
        raise InputError(
            f"{file.path} is not a complete MATLAB file ({error}); download it again"
        ) from error
    if absent := {"X", "y"} - variables.keys():
        raise InputError(f"{file.path} has no {' and no '.join(sorted(absent))}; download it again")
    return variables["X"], variables["y"]


def _check_labels(path: Path, labels: NDArray[Any], low: int, high: int) -> None:
    if not labels.size:
        raise InputError(f"{path} has no images or labels; download it again")
    wrong = labels[(labels < low) | (labels > high)]
    if wrong.size:
        raise InputError(
            f"{path} has label {wrong[0]}, but labels must lie in {low} … {high}; download it again"
        )


_READERS: dict[str, Callable[[list[File]], Images]] = {
    "mnist": _read_idx,
    "fashion-mnist": _read_idx,
    "cifar10": partial(_read_cifar, classes=(10,)),
    "cifar100": partial(_read_cifar, classes=(20, 100)),
    "svhn": _read_svhn,
}
