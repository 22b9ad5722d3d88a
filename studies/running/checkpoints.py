"""Checkpoints: where a training run that was stopped goes on from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ardyn import InputError
from ardyn.files import written_whole


@dataclass(frozen=True)
class Checkpoints:
    """One file for each part of a run, written whole or not at all."""

    folder: Path
    identity: str
    """What the run is: its configuration and its data; a checkpoint of another is refused."""

    @staticmethod
    def of(folder: Path, config: Any, checksum: str) -> "Checkpoints":
        """Those of a run folder."""
        identity = json.dumps({"config": asdict(config), "data": checksum}, sort_keys=True)
        return Checkpoints(folder / "checkpoints", identity)

    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved last under a name; None if nothing was.

        Raises:
            InputError: a file that cannot be read, or one of another run.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found = torch.load(path, weights_only=True)
            identity = found.pop("identity")
        except Exception as error:  # whatever a broken file makes the reader raise
            raise InputError(
                f"cannot read the checkpoint {path} ({type(error).__name__}); remove it, or start "
                f"over with --overwrite"
            ) from error
        if identity != self.identity:
            raise InputError(
                f"the checkpoint {path} belongs to another configuration or to other data; start "
                f"over with --overwrite, or use another --out"
            )
        return dict(found)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep a part of a run; a process killed at any moment leaves a whole file.

        Raises:
            InputError: a full disk, or a folder that cannot be written.
        """
        with written_whole(self._path(name), "make room, then go on with --resume") as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"identity": self.identity, **state}, part)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
