"""Where files are found, in every layout, and downloads from a server on this machine."""

import functools
import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
import requests

from ardyn import InputError
from studies.problems import downloads
from studies.problems.downloads import LAYOUTS

SETS = tuple(LAYOUTS)


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder, and records the requested paths."""

    def __init__(self, folder):
        handler = functools.partial(Handler, directory=folder)
        super().__init__(("127.0.0.1", 0), handler)
        self.folder = folder
        self.requested = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        self.server.requested.append(self.path.strip("/"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("ARDYN_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache/ardyn"


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    with Server(tmp_path / "served") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def packed(folder, files):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for file in files:
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(file)
            tar.addfile(entry, io.BytesIO(file.encode()))
    return archive.getvalue()


def publication(name, file):
    """A published file, where the content of each file within is its own name."""
    layout = LAYOUTS[name]
    if file == layout.archive:
        return packed(layout.folder, ["batches.meta.txt", *layout.train, *layout.test])
    inner = file.removesuffix(".gz")
    return inner.encode() if inner == file else gzip.compress(inner.encode(), mtime=0)


def publish(server, name, monkeypatch):
    """Serve small files instead of the official ones, with their own MD5 sums."""
    files = {file: publication(name, file) for file in LAYOUTS[name].md5}
    for file, content in files.items():
        (server.folder / file).write_bytes(content)
    md5 = {file: hashlib.md5(content).hexdigest() for file, content in files.items()}
    monkeypatch.setitem(LAYOUTS, name, replace(LAYOUTS[name], url=server.url, md5=md5))


def write(folder, files, gzipped=False):
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = gzip.compress(file.encode()) if gzipped else file.encode()
        (folder / (file + ".gz" * gzipped)).write_bytes(content)


def check_both_splits_are_read(name, folder):
    for split in ("train", "test"):
        found = [file.content.decode() for file in downloads.contents(name, split, folder)]
        assert found == list(LAYOUTS[name].files(split))


def everything(name):
    return LAYOUTS[name].train + LAYOUTS[name].test


def md5_sums():
    return {(name, file, md5) for name in SETS for file, md5 in LAYOUTS[name].md5.items()}


def test_every_published_file_has_an_md5_sum_of_its_own():
    assert len({md5 for *_, md5 in md5_sums()}) == len(md5_sums()) == 12
    assert all(len(bytes.fromhex(md5)) == 16 for *_, md5 in md5_sums())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_loose_files_are_found(tmp_path, name, gzipped, nested):
    folder = tmp_path / name
    write(folder / LAYOUTS[name].folder if nested else folder, everything(name), gzipped)
    assert downloads.locate(name, ("train", "test"), tmp_path) == folder
    check_both_splits_are_read(name, folder)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_official_archive_is_read_as_it_is(tmp_path, name):
    (tmp_path / name).mkdir()
    archive = LAYOUTS[name].archive
    (tmp_path / name / archive).write_bytes(publication(name, archive))
    check_both_splits_are_read(name, downloads.locate(name, ("train", "test"), tmp_path))


def test_only_the_files_of_the_split_are_needed(tmp_path):
    write(tmp_path / "mnist", LAYOUTS["mnist"].train)
    assert downloads.locate("mnist", ("train",), tmp_path) == tmp_path / "mnist"
    with pytest.raises(
        InputError, match=r"mnist has no file t10k-images-idx3-ubyte, t10k-labels"
    ) as e:
        downloads.locate("mnist", ("train", "test"), tmp_path)
    assert "no file train" not in str(e.value)


@pytest.mark.parametrize("name", SETS)
def test_a_folder_without_the_set_is_refused(tmp_path, name):
    with pytest.raises(InputError) as refusal:
        downloads.locate(name, ("train", "test"), tmp_path)
    layout = LAYOUTS[name]
    for word in (str(tmp_path / name), *everything(name), *layout.md5, layout.url, "--data-dir"):
        assert word in str(refusal.value)


def test_an_archive_without_a_file_is_named(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(packed("any", LAYOUTS["cifar10"].test))
    with pytest.raises(InputError, match=r"cifar-10-binary.tar.gz has no file data_batch_1.bin, "):
        downloads.contents("cifar10", "train", tmp_path)


@pytest.mark.parametrize(
    ("name", "file"),
    [("cifar100", "cifar-100-binary.tar.gz"), ("mnist", "train-images-idx3-ubyte.gz")],
)
def test_truncated_compressed_files_are_named(tmp_path, name, file):
    content = publication(name, file)
    write(tmp_path, LAYOUTS["mnist"].train[1:])
    for length in (5, 20, len(content) // 2):
        (tmp_path / file).write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"cannot read .*{file}.*; download it again"):
            downloads.contents(name, "train", tmp_path)


def test_garbage_within_a_compressed_file_is_named(tmp_path):
    write(tmp_path, LAYOUTS["mnist"].train, gzipped=True)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:10] + b"\xff" * 30)
    with pytest.raises(InputError, match=r"cannot read .*train-labels-idx1-ubyte.gz"):
        downloads.contents("mnist", "train", tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_a_download_is_kept(server, cache, name, monkeypatch, capsys):
    publish(server, name, monkeypatch)
    folders = {downloads.locate(name, ("train", "test")) for _ in range(2)}
    assert folders == {cache / name}
    assert sorted(server.requested) == sorted(LAYOUTS[name].md5)
    assert "100%" in capsys.readouterr().err
    check_both_splits_are_read(name, cache / name)


def test_only_what_the_split_needs_is_downloaded(server, monkeypatch):
    publish(server, "mnist", monkeypatch)
    downloads.locate("mnist", ("train",))
    assert server.requested == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


def test_a_damaged_download_is_fetched_again(server, cache, monkeypatch):
    publish(server, "svhn", monkeypatch)
    downloads.locate("svhn", ("train",))
    (cache / "svhn/train_32x32.mat").write_bytes(b"damaged")
    check = downloads.contents("svhn", "train", downloads.locate("svhn", ("train",)))
    assert check[0].content == b"train_32x32.mat"


def test_ardyn_data_comes_before_a_download(tmp_path, server, cache, monkeypatch):
    publish(server, "svhn", monkeypatch)
    monkeypatch.setenv("ARDYN_DATA", str(tmp_path / "own"))
    assert downloads.locate("svhn", ("test",)) == cache / "svhn"
    write(tmp_path / "own/svhn", LAYOUTS["svhn"].test)
    assert downloads.locate("svhn", ("test",)) == tmp_path / "own/svhn"
    with pytest.raises(InputError, match="own/svhn has no file train_32x32.mat; put"):
        downloads.locate("svhn", ("train", "test"))


def test_data_dir_comes_before_ardyn_data(tmp_path, monkeypatch):
    for place in ("own", "passed"):
        write(tmp_path / place / "svhn", everything("svhn"))
    monkeypatch.setenv("ARDYN_DATA", str(tmp_path / "own"))
    assert downloads.locate("svhn", ("test",), tmp_path / "passed") == tmp_path / "passed/svhn"


def check_refused(reason, cache):
    with pytest.raises(InputError) as refusal:
        downloads.locate("mnist", ("train",))
    assert reason in str(refusal.value)
    cure = (
        "put train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz into DIR/mnist, and pass "
        "--data-dir DIR or set ARDYN_DATA to DIR"
    )
    assert str(refusal.value).endswith(cure)
    assert not list(cache.rglob("*.gz"))


def test_without_a_network_the_message_says_what_to_do(server, cache, monkeypatch):
    publish(server, "mnist", monkeypatch)
    server.server_close()
    check_refused(f"cannot download mnist (no connection to {server.url})", cache)


def test_another_file_than_the_official_one_is_not_kept(server, cache, monkeypatch):
    publish(server, "mnist", monkeypatch)
    (server.folder / "train-images-idx3-ubyte.gz").write_bytes(b"another")
    check_refused("another MD5 sum than the official one", cache)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (requests.HTTPError("404 Not Found for url"), "404 Not Found for url"),
        (requests.exceptions.ChunkedEncodingError("IncompleteRead"), "no connection to https"),
        (requests.Timeout("read timed out"), "no connection to https"),
    ],
)
def test_an_interrupted_download_leaves_no_file(cache, monkeypatch, error, reason):
    def break_off(self, url, output_file, pooch):
        Path(output_file).write_bytes(b"the first bytes")
        raise error

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", break_off)
    check_refused(reason, cache)
    assert not list((cache / "mnist").iterdir())


def test_a_cache_that_cannot_be_written_is_named(server, cache, monkeypatch):
    publish(server, "mnist", monkeypatch)
    cache.parent.write_text("a file where the cache should be")
    check_refused(str(cache), cache)
