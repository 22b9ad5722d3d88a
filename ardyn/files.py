"""Atomic writing of files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ardyn.errors import InputError


@contextmanager
def written_whole(path: str | Path, cure: str) -> Iterator[Path]:
    """A temporary path in the same folder, which is renamed to ``path`` when the block ends.

    An existing file at ``path`` is kept until then: a process that is killed, or a full disk,
    leaves either the old file or the complete new one, flushed to disk before it is renamed.

    Args:
        cure: what the user can do if writing fails; the last part of the error message.

    Raises:
        InputError: a folder that does not exist or cannot be written to, or a full disk.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch.save raises the latter
            raise InputError(f"cannot write {path} ({error}); {cure}") from error
        raise
