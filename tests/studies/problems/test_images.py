"""Data sets: real digits, small sets in every official format, and the real files."""

import hashlib
import os
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ardyn import InputError
from ardyn.models import IMAGES
from studies.problems import downloads, images
from tests.studies.problems.test_formats import random_pixels, small_files

OFFICIAL = tuple(downloads.LAYOUTS)
COUNTS = {"svhn": (73257, 26032), "cifar10": (50000, 10000), "cifar100": (50000, 10000)}
REAL = Path(os.environ.get("ARDYN_DATA", ""))


def write(folder, name, split, pixels, labels):
    """A split in the files of its names; a first file that may be followed by copies."""
    folder.mkdir(exist_ok=True)
    names = downloads.LAYOUTS[name].files(split)
    contents = small_files(name, pixels, labels)
    for file, content in zip(names, contents * (len(names) // len(contents)), strict=True):
        (folder / file).write_bytes(content)


@pytest.fixture(params=OFFICIAL)
def small(request, tmp_path, monkeypatch):
    """A data set of three training samples (per file) and two test samples."""
    monkeypatch.setattr(images, "SAMPLES", {})
    pixels = random_pixels(request.param, samples=5)
    write(tmp_path / request.param, request.param, "train", pixels[:3], [7, 0, 2])
    write(tmp_path / request.param, request.param, "test", pixels[3:], [1, 9])
    return request.param, tmp_path, pixels.reshape(5, -1)


def test_every_data_set_has_a_shape_and_files():
    assert set(get_args(images.DatasetName)) == set(IMAGES) == {"digits", *OFFICIAL}


def test_digits_are_real_pixels_with_one_hot_labels():
    digits = images.load("digits", torch.float64)
    assert digits.inputs.shape == (1797, 64)
    assert digits.inputs.min() == 0
    assert digits.inputs.max() == 1
    assert digits.targets.sum(1).eq(1).all()
    torch.testing.assert_close(digits.inputs, torch.from_numpy(load_digits().data) / 16)


def test_the_checksum_of_the_digits_is_that_of_stored_results():
    stored = "5889d26819cf830d070975af3c711419825fa0a078137b3d80b8e7d06bd58da0"
    assert images.load("digits", torch.float32).checksum == stored


def test_every_sixth_digit_is_a_test_sample():
    digits = images.load("digits", torch.float64)
    train, test = images.train_and_test("digits", torch.float64)
    assert torch.equal(test.inputs, digits.inputs[5::6])
    assert torch.equal(test.targets, digits.targets[5::6])
    assert torch.equal(train.inputs[:6], digits.inputs[[0, 1, 2, 3, 4, 6]])
    assert len(train.inputs) + len(test.inputs) == 1797
    assert len({digits.checksum, train.checksum, test.checksum}) == 3


def test_official_files_become_pixels_from_0_to_1_and_one_hot_labels(small):
    name, folder, pixels = small
    train, test = images.train_and_test(name, torch.float64, folder)
    torch.testing.assert_close(train.inputs[:3] * 255, torch.tensor(pixels[:3]).double())
    torch.testing.assert_close(test.inputs * 255, torch.tensor(pixels[3:]).double())
    assert train.targets[:3].argmax(1).tolist() == [7, 0, 2]
    assert test.targets.argmax(1).tolist() == [1, 9]
    assert test.targets.shape == (2, IMAGES[name][2])
    assert train.targets.sum(1).eq(1).all()


def test_load_is_the_training_set_in_any_precision(small):
    name, folder, _ = small
    train, _ = images.train_and_test(name, torch.float64, folder)
    loaded = images.load(name, torch.float32, folder)
    assert loaded.inputs.dtype == loaded.targets.dtype == torch.float32
    assert torch.equal(loaded.inputs, train.inputs.float())
    assert torch.equal(loaded.targets, train.targets.float())
    assert loaded.checksum == train.checksum


def test_the_training_set_needs_no_test_files(small):
    name, folder, _ = small
    for file in downloads.LAYOUTS[name].test:
        (folder / name / file).unlink()
    images.load(name, torch.float32, folder)
    with pytest.raises(InputError, match=f"{name} has no file"):
        images.train_and_test(name, torch.float32, folder)


def test_checksums_are_of_the_pixels_and_the_labels(small):
    name, folder, pixels = small
    _, test = images.train_and_test(name, torch.float32, folder)
    stored = pixels[3:] / 255 if "mnist" in name else pixels[3:].astype(np.uint8)
    labels = np.array([1, 9], np.uint8)
    assert test.checksum == hashlib.sha256(stored.tobytes() + labels.tobytes()).hexdigest()


def test_a_batch_is_seeded_and_without_repeats():
    digits = images.load("digits", torch.float64)
    batches = [digits.batch(1797, torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(batches[0], batches[1])
    assert not torch.equal(batches[0], batches[2])
    torch.testing.assert_close(batches[0].sum(), digits.inputs.sum())


@pytest.mark.parametrize("size", [0, 1798])
def test_a_batch_size_outside_the_set_is_refused(size):
    digits = images.load("digits", torch.float64)
    with pytest.raises(InputError, match=rf"batch size {size} must lie in 1 … 1797"):
        digits.batch(size, torch.Generator())


def test_a_truncated_file_is_refused(small):
    name, folder, _ = small
    file = downloads.LAYOUTS[name].test[-1]
    path = folder / name / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=file):
        images.train_and_test(name, torch.float32, folder)


@pytest.mark.parametrize("read", [images.load, images.train_and_test])
def test_an_unknown_data_set_is_refused(read):
    with pytest.raises(InputError, match="unknown dataset 'cifar': did you mean 'cifar10"):
        read("cifar", torch.float32)


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_official_sets_are_complete(name):
    if downloads.missing(name, ("train", "test"), REAL / name):
        pytest.skip("needs the real files in ARDYN_DATA")
    channels, side, classes = IMAGES[name]
    sets = images.train_and_test(name, torch.float32, REAL)
    for real, count in zip(sets, COUNTS.get(name, (60000, 10000)), strict=True):
        assert real.inputs.shape == (count, channels * side**2)
        assert real.inputs.min() == 0
        assert real.inputs.max() == 1
        assert real.targets.sum(0).min() > count / classes / 2


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_incomplete_set_is_refused(name, tmp_path):
    pixels = random_pixels(name, samples=5)
    write(tmp_path / name, name, "train", pixels[:3], [7, 0, 2])
    with pytest.raises(InputError, match=rf"train images of {name}, and the official set has"):
        images.load(name, torch.float32, tmp_path)
