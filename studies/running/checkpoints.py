"""Checkpoints, from which an interrupted run is resumed."""

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
    """One file for each part of a run, each written completely or not at all."""

    folder: Path
    identity: str
    """Configuration and data of the run; checkpoints of other runs are refused."""

    @staticmethod
    def of(folder: Path, config: Any, checksum: str) -> "Checkpoints":
        """The checkpoints of a run folder."""
        identity = json.dumps({"config": asdict(config), "data": checksum}, sort_keys=True)
        return Checkpoints(folder / "checkpoints", identity)

    def load(self, name: str) -> dict[str, Any] | None:
        """The last state saved under a name; None if there is none.

        Raises:
            InputError: a file that cannot be read, or that belongs to another run.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            found = torch.load(path, weights_only=True)
            identity = found.pop("identity")
        except Exception as error:  # a damaged file can raise errors of almost any type
            raise InputError(
                f"cannot read the checkpoint {path} ({type(error).__name__}); remove it, or start "
                f"again with --overwrite"
            ) from error
        if identity != self.identity:
            raise InputError(
                f"the checkpoint {path} belongs to another configuration or to other data; start "
                f"again with --overwrite, or use another --out"
            )
        return dict(found)

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Save the state of a part of a run; the file is complete even if the process is killed.

        Raises:
            InputError: a full disk, or a folder that cannot be written.
        """
        with written_whole(self._path(name), "make room, then continue with --resume") as part:
            part.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"identity": self.identity, **state}, part)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.pt"
