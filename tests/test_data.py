"""Data sets: real digits, IDX files, and what is wrong with a file."""

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ardyn import InputError
from studies import data


def idx(values):
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path):
    pixels = np.arange(3 * 4 * 4).reshape(3, 4, 4)
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-images-idx3-ubyte").write_bytes(idx(pixels))
    labels = gzip.compress(idx(np.array([7, 0, 2])))
    (tmp_path / "mnist/train-labels-idx1-ubyte.gz").write_bytes(labels)
    return tmp_path


def test_digits_are_real_pixels_with_one_hot_labels():
    digits = data.load("digits", torch.float64)
    assert digits.inputs.shape == (1797, 64)
    assert digits.inputs.min() == 0
    assert digits.inputs.max() == 1
    assert digits.targets.sum(1).eq(1).all()


def test_idx_files_are_read_gzipped_or_not(folder):
    mnist = data.load("mnist", torch.float64, folder)
    torch.testing.assert_close(mnist.inputs[2] * 255, torch.arange(32.0, 48.0).double())
    assert mnist.targets.argmax(1).tolist() == [7, 0, 2]


def test_a_batch_is_seeded_and_without_repeats():
    digits = data.load("digits", torch.float64)
    batches = [digits.batch(1797, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    torch.testing.assert_close(batches[0].sum(), digits.inputs.sum())


def test_a_truncated_file_is_named(folder):
    path = folder / "mnist/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"train-images.*whole IDX"):
        data.load("mnist", torch.float64, folder)


def test_files_that_disagree_are_named(folder):
    (folder / "mnist/train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 2])))
    with pytest.raises(InputError, match="3 images but 2 labels"):
        data.load("mnist", torch.float64, folder)


@pytest.mark.skipif("ARDYN_DATA" not in os.environ, reason="needs the real files")
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_sets_are_whole(name):
    real = data.load(name, torch.float32, Path(os.environ["ARDYN_DATA"]))
    assert real.inputs.shape == (60000, 784)
    assert real.targets.sum(0).min() > 5000
