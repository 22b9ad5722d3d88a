"""The official formats, read from small files written as they prescribe, and what is refused."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ardyn import InputError
from ardyn.models import IMAGES
from studies.problems import formats
from studies.problems.formats import File


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def cifar(labels, pixels):
    """Labels [sample, kind] before pixels [sample, channel, row, column]."""
    records = np.hstack([labels, pixels.reshape(len(pixels), -1)])
    return records.astype(np.uint8).tobytes()


def mat(**variables):
    file = io.BytesIO()
    savemat(file, variables, do_compression=True)
    return file.getvalue()


def svhn(labels, pixels):
    """Labels [sample], from 1 to 10, and pixels [sample, channel, row, column]."""
    X = pixels.astype(np.uint8).transpose(2, 3, 1, 0)
    return mat(X=X, y=np.array(labels, np.uint8)[:, None])


def random_pixels(name, samples=3):
    channels, side, _ = IMAGES[name]
    return np.random.default_rng(0).integers(0, 256, (samples, channels, side, side))


def small_files(name, pixels, labels):
    """The contents of the files of one split, in the order in which they are read."""
    labels = np.array(labels)
    if name == "svhn":
        return [svhn(np.where(labels == 0, 10, labels), pixels)]
    if name.startswith("cifar"):
        coarse = [labels // 5] if name == "cifar100" else []
        return [cifar(np.stack([*coarse, labels], 1), pixels)]
    return [idx(pixels[:, 0]), idx(labels)]


def read(name, *contents):
    return formats.read(name, [File(Path(f"file{i}"), c) for i, c in enumerate(contents)])


IDX_IMAGES = idx(random_pixels("mnist")[:, 0])
IDX_LABELS = idx(np.array([7, 0, 9]))
COLOURS = random_pixels("svhn")
X = COLOURS.astype(np.uint8).transpose(2, 3, 1, 0)
Y = np.array([[1], [10], [2]], np.uint8)


@pytest.mark.parametrize("name", sorted(set(IMAGES) - {"digits"}))
def test_pixels_come_channels_first_and_labels_from_zero(name):
    pixels, labels = random_pixels(name), [7, 0, IMAGES[name][2] - 1]
    images = read(name, *small_files(name, pixels, labels))
    assert images.pixels.dtype == np.uint8
    np.testing.assert_array_equal(images.pixels, pixels.reshape(3, -1))
    assert images.labels.tolist() == labels


def test_the_batches_of_cifar10_are_joined_in_order():
    batches = [cifar([[label]], COLOURS[[i]]) for i, label in enumerate([4, 9, 0])]
    images = read("cifar10", *batches)
    np.testing.assert_array_equal(images.pixels, COLOURS.reshape(3, -1))
    assert images.labels.tolist() == [4, 9, 0]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ((IDX_LABELS, IDX_IMAGES), "file0 begins with 2049, but IDX files of images .* 2051"),
        ((IDX_IMAGES, IDX_IMAGES), "file1 begins with 2051, but IDX files of labels .* 2049"),
        ((gzip.compress(IDX_IMAGES), IDX_LABELS), "file0 begins with"),
        ((b"", IDX_LABELS), "file0 begins with 0"),
        ((IDX_IMAGES[:-1], IDX_LABELS), "file0 has 2367 bytes, but 2368 "),
        ((IDX_IMAGES[:10], IDX_LABELS), "file0 has 10 bytes"),
        ((IDX_IMAGES, IDX_LABELS + b"\0"), "file1 has 12 bytes, but 11 "),
        ((idx(np.zeros((3, 28, 27))), IDX_LABELS), "file0 has images of 28 × 27 pixels"),
        ((IDX_IMAGES, idx(np.zeros(2))), "file0 and file1 have 3 images but 2 labels"),
        ((idx(np.zeros((0, 28, 28))), idx(np.zeros(0))), "file1 has no images"),
        ((IDX_IMAGES, idx(np.array([1, 10, 2]))), "file1 has label 10, .* 0 … 9"),
    ],
)
def test_wrong_idx_files_are_named(contents, message):
    with pytest.raises(InputError, match=message):
        read("mnist", *contents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cifar10", cifar([[1]] * 3, COLOURS)[:-1], "file0 has 9218 bytes, .* multiple of 3073"),
        ("cifar100", cifar([[1]] * 3, COLOURS), "file0 has 9219 bytes, .* multiple of 3074"),
        ("cifar10", b"", "file0 has no images"),
        ("cifar10", cifar([[1], [10], [11]], COLOURS), "file0 has label 10, .* 0 … 9"),
        ("cifar100", cifar([[20, 1]] * 3, COLOURS), "file0 has label 20, .* 0 … 19"),
        ("cifar100", cifar([[1, 100]] * 3, COLOURS), "file0 has label 100, .* 0 … 99"),
    ],
)
def test_wrong_cifar_files_are_named(name, content, message):
    with pytest.raises(InputError, match=message):
        read(name, content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (mat(y=Y), "file0 has no X; "),
        (mat(X=X), "file0 has no y; "),
        (mat(), "file0 has no X and no y; "),
        (mat(X=X / 255, y=Y), r"file0 has X float64 \[32, 32, 3, 3\]"),
        (mat(X=X, y=Y + 0.5), r"file0 has .* y float64 \[3, 1\]"),
        (mat(X=X, y=Y[:2]), r"file0 has .* y uint8 \[2, 1\]"),
        (mat(X=X, y=Y.T), r"file0 has .* y uint8 \[1, 3\]"),
        (mat(X=COLOURS.astype(np.uint8), y=Y), r"file0 has X uint8 \[3, 3, 32, 32\]"),
        (mat(X=X, y=Y - 1), "file0 has label 0, .* 1 … 10"),
        (mat(X=X, y=Y + 1), "file0 has label 11, .* 1 … 10"),
        (b"<html>not found</html>" * 20, "file0 is not a complete MATLAB file"),
        (b"", "file0 is not a complete MATLAB file"),
    ],
)
def test_wrong_mat_files_are_named(content, message):
    with pytest.raises(InputError, match=message):
        read("svhn", content)


@pytest.mark.parametrize("name", sorted(set(IMAGES) - {"digits"}))
def test_truncated_files_are_refused(name):
    files = small_files(name, random_pixels(name), [1, 2, 3])
    record = len(files[0]) // 3 if name.startswith("cifar") else len(files[0])
    for length in {*range(0, record, 97), record - 1}:
        with pytest.raises(InputError, match="file0"):
            read(name, files[0][:length], *files[1:])
