"""A file is written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ardyn.errors import InputError


@contextmanager
def written_whole(path: str | Path, cure: str) -> Iterator[Path]:
    """A path beside ``path`` to write on, which is renamed to it in the end.

    What was at ``path`` stays until then, so that a process killed at any moment, or a full disk,
    leaves the old file or the new one. The new one is on the disk before it takes the name.

    Args:
        cure: what the user can do where it cannot be written; it ends the message.

    Raises:
        InputError: no folder, one that cannot be written, or a full disk.
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
