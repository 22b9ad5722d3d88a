"""Trajectory: activities over time, with the gradients that they should converge to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ardyn.analysis import measures, netcdf
from ardyn.analysis.references import References, choose_reference
from ardyn.dynamics.windows import Learned
from ardyn.errors import check_positive
from ardyn.solvers.system import samples_in

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, repr=False)
class Trajectory:
    """Activities of every unit at the recorded times; ``trajectory[unit]`` is [time, batch, …].

    Units come in feed-forward order, hidden to output.
    """

    times: Tensor
    """[time], float64, in the unit of the time constants."""
    activities: Mapping[str, Tensor]
    references: References
    solved_by: object
    """The solver; in a trajectory read from a file, its text."""
    is_exact: bool = False
    """Whether this is the closed form of the ODE, which gives convergence times as roots."""
    traces: Mapping[str, Tensor] = field(default_factory=dict)
    """z of the units whose trace a Rule uses, [time, batch, …]."""
    evaluations: int = 0
    """Evaluations of the right-hand side (for Sweep the sweeps, for a closed form 0)."""
    learned: Learned | None = None
    """Weights at the last time and, if requested, at earlier ones; None for constant weights."""
    steady_at: Tensor | None = None
    """Time from which each sample was steady, [batch], NaN if never; None without a stop."""

    def __repr__(self) -> str:
        span = f"{len(self.times)} times to {float(self.times[-1]):g}"
        return f"<Trajectory of {', '.join(self.units)}: {span}, {self.solver}>"

    def __getitem__(self, unit: str) -> Tensor:
        try:
            return self.activities[unit]
        except KeyError:
            raise KeyError(f"no unit {unit!r}; the units are {', '.join(self.units)}") from None

    @property
    def solver(self) -> str:
        """The solver, as a Python expression."""
        return str(self.solved_by)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units, hidden to output."""
        return tuple(self.activities)

    @property
    def stop_reason(self) -> list[str]:
        """Why the relaxation of each sample ended: "steady state" or "last time"."""
        batch = samples_in(x[0] for x in self.activities.values())
        steady = torch.full((batch,), torch.nan) if self.steady_at is None else self.steady_at
        return ["last time" if t.isnan() else "steady state" for t in steady]

    def reference(self, name: str = "gradients") -> Mapping[str, Tensor]:
        """``"gradients"`` (BP, by autograd) or ``"equilibrium"`` (the rule's own fixed point).

        Raises:
            InputError: another name, or an equilibrium that has no closed form.
        """
        return choose_reference(self.references, name)

    def relative_error(
        self, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """‖x^l − g^l‖ / ‖g^l‖ of each unit, [time] or [time, batch].

        In this and the following methods g is that of the weights at t = 0; for plastic weights see
        ``Relaxation.moving_gradients``.
        """
        g = self.reference(reference)
        return {u: measures.relative_error(x, g[u], per_sample) for u, x in self.activities.items()}

    def cosine(self, reference: str = "gradients", per_sample: bool = False) -> dict[str, Tensor]:
        """Cosine between x^l and g^l of each unit, [time] or [time, batch]."""
        g = self.reference(reference)
        return {u: measures.cosine(x, g[u], per_sample) for u, x in self.activities.items()}

    def norm_ratio(
        self, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """‖x^l‖ / ‖g^l‖ of each unit, [time] or [time, batch]."""
        g = self.reference(reference)
        return {u: measures.norm_ratio(x, g[u], per_sample) for u, x in self.activities.items()}

    def convergence_time(
        self, tolerance: float = 1e-3, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """First time after which ‖x^l − g^l‖ ≤ tolerance · ‖g^l‖ stays true, of each unit.

        For ``ClosedForm()`` a root of the closed form, independent of the recorded times; infinite
        if there is none. Otherwise interpolated between recorded times; NaN if not yet reached.

        Returns:
            {unit: time}, [] each, or [batch] if ``per_sample``.
        """
        check_positive("tolerance", tolerance, such_as=1e-3)
        if self.is_exact:
            return self.references.exact_convergence_time(tolerance, reference, per_sample)
        errors = self.relative_error(reference, per_sample)
        return {
            unit: measures.crossing_time(self.times, e, tolerance) for unit, e in errors.items()
        }

    def to_dataset(self) -> xr.Dataset:
        """Activities, BP gradients and the equilibrium as a Dataset, one variable each per unit.

        Recorded weights and ψ are included.
        """
        return netcdf.to_dataset(self)

    @staticmethod
    def from_dataset(dataset: xr.Dataset) -> Trajectory:
        """A trajectory from what ``to_dataset`` returned; tensors on the CPU.

        Its convergence times are interpolated, even if the solver was ``ClosedForm()``.

        Raises:
            InputError: a dataset that holds no trajectory.
        """
        return Trajectory(**netcdf.fields_of(dataset))

    def save(self, path: str | Path) -> None:
        """Write a netCDF file atomically.

        Raises:
            InputError: a path that cannot be written.
        """
        netcdf.write(self.to_dataset(), path)

    @staticmethod
    def load(path: str | Path) -> Trajectory:
        """Read what ``save`` wrote.

        Raises:
            InputError: no such file, or one that holds no trajectory.
        """
        return Trajectory.from_dataset(netcdf.read(path))
