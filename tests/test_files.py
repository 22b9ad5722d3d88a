from pathlib import Path

import pytest

from ardyn import InputError
from ardyn.files import written_whole


def write_half(path: Path, error: BaseException | None) -> None:
    with written_whole(path, "make room") as part:
        part.write_text("half")
        if error:
            raise error


def test_a_file_is_replaced_in_the_end(tmp_path):
    path = tmp_path / "results"
    path.write_text("old")
    with written_whole(path, "make room") as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["results"]
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("file write failed")])
def test_a_file_that_cannot_be_written_leaves_the_old_one(error, tmp_path):
    path = tmp_path / "results"
    path.write_text("old")
    with pytest.raises(InputError, match=r"cannot write .*results \(.*\); make room"):
        write_half(path, error)
    assert [each.name for each in tmp_path.iterdir()] == ["results"]
    assert path.read_text() == "old"


def test_an_interruption_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "results", KeyboardInterrupt())
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match="make room"):
        write_half(tmp_path / "none" / "results", None)
