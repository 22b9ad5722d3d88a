"""Files of the data sets: their names, where they are found, and their download."""

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import pooch

from ardyn import InputError
from studies.problems.formats import File

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Layout:
    """The files of a data set as published."""

    url: str
    """Address they are published at."""
    md5: dict[str, str]
    """MD5 sums, {name of the published file: sum}."""
    train: tuple[str, ...]
    """Names of the files of the training set, unpacked."""
    test: tuple[str, ...]
    folder: str = ""
    """Subfolder that the unpacked files may be in."""
    archive: str = ""
    """Name of the published archive of that subfolder; empty if the files are published singly."""

    def files(self, split: Split) -> tuple[str, ...]:
        return self.train if split == "train" else self.test

    def published(self, splits: Iterable[Split]) -> list[str]:
        """Names of the published files that hold these splits."""
        files = {file for split in splits for file in self.files(split)}
        return [p for p in self.md5 if p == self.archive or p.removesuffix(".gz") in files]


def locate(name: str, splits: Iterable[Split], data_dir: Path | None = None) -> Path:
    """The folder with the files of these splits: in data_dir, in ARDYN_DATA, or downloaded.

    Raises:
        InputError: files that are missing, or cannot be downloaded.
    """
    splits = list(splits)
    given = data_dir or os.environ.get("ARDYN_DATA")
    if given and (data_dir or (Path(given) / name).is_dir()):
        _check_complete(name, splits, Path(given) / name)
        return Path(given) / name
    return _download(name, LAYOUTS[name].published(splits))


def missing(name: str, splits: Iterable[Split], folder: Path) -> list[str]:
    """Names of the files of these splits that are neither in the folder nor in its archive."""
    layout = LAYOUTS[name]
    if layout.archive and (folder / layout.archive).is_file():
        return []
    files = [file for split in splits for file in layout.files(split)]
    return [file for file in files if _path(layout, folder, file) is None]


def contents(name: str, split: Split, folder: Path) -> list[File]:
    """The files of one split, decompressed.

    Raises:
        InputError: a file that cannot be read or decompressed, or is not in the archive.
    """
    layout = LAYOUTS[name]
    paths = [_path(layout, folder, file) for file in layout.files(split)]
    unpacked = [path for path in paths if path]
    if len(unpacked) == len(paths):
        return [File(path, _bytes(path)) for path in unpacked]
    return _unpack(folder / layout.archive, layout.files(split))


def _check_complete(name: str, splits: list[Split], folder: Path) -> None:
    if absent := missing(name, splits, folder):
        layout = LAYOUTS[name]
        raise InputError(
            f"{folder} has no file {', '.join(absent)}; put "
            f"{', '.join(layout.published(splits))} from {layout.url} there, or leave out "
            f"--data-dir and ARDYN_DATA to download them"
        )


def _path(layout: Layout, folder: Path, file: str) -> Path | None:
    """Path of an unpacked or gzipped file; None if there is none."""
    places = (folder, folder / layout.folder)
    paths = (place / f"{file}{ending}" for place in places for ending in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _bytes(path: Path) -> bytes:
    """The decompressed content of a file."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {path} ({error}); download it again") from error


def _unpack(archive: Path, files: tuple[str, ...]) -> list[File]:
    """Files of these names from an archive, in this order."""
    found = dict[str, bytes]()
    try:
        with tarfile.open(archive) as tar:
            # In one pass, as seeking backwards in a gzipped archive decompresses it from its start.
            for entry in tar:
                file, member = PurePosixPath(entry.name).name, tar.extractfile(entry)
                if file in files and member:
                    found[file] = member.read()
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"cannot read {archive} ({error}); download it again") from error
    if absent := [file for file in files if file not in found]:
        raise InputError(f"{archive} has no file {', '.join(absent)}; download it again")
    return [File(archive / file, found[file]) for file in files]


def _download(name: str, files: list[str]) -> Path:
    """Download files to the user's cache, unless already there; returns the folder."""
    layout, folder = LAYOUTS[name], Path(pooch.os_cache("ardyn")) / name
    try:
        for file in files:
            _retrieve(layout, file, folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot download {name} ({_reason(error, layout.url)}); put {', '.join(files)} into "
            f"DIR/{name}, and pass --data-dir DIR or set ARDYN_DATA to DIR"
        ) from error
    return folder


def _retrieve(layout: Layout, file: str, folder: Path) -> None:
    md5 = f"md5:{layout.md5[file]}"
    pooch.retrieve(layout.url + file, md5, fname=file, path=folder, progressbar=True)


def _reason(error: Exception, url: str) -> str:
    """Why a download failed."""
    import requests

    if isinstance(error, requests.HTTPError):
        return str(error)
    if isinstance(error, requests.RequestException):
        return f"no connection to {url}"
    if isinstance(error, ValueError):
        return f"the file from {url} has another MD5 sum than the official one"
    return str(error)


def _idx(url: str, *md5: str) -> Layout:
    train, test = (
        (f"{split}-images-idx3-ubyte", f"{split}-labels-idx1-ubyte") for split in ("train", "t10k")
    )
    files = [f"{file}.gz" for file in (*train, *test)]
    return Layout(url, dict(zip(files, md5, strict=True)), train, test)


LAYOUTS = {
    "mnist": _idx(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
    "fashion-mnist": _idx(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
    "cifar10": Layout(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
    ),
    "cifar100": Layout(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
        train=("train.bin",),
        test=("test.bin",),
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
    ),
    "svhn": Layout(
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
            "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
        },
        train=("train_32x32.mat",),
        test=("test_32x32.mat",),
    ),
}
