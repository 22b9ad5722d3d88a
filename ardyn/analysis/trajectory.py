"""Trajectory: activities over time beside the gradients they should reach."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ardyn.analysis import measures as compare
from ardyn.closed_form.convergence_time import crossing_time
from ardyn.dynamics.coupled import Learned
from ardyn.errors import InputError, check_positive
from ardyn.files import written_whole
from ardyn.solvers.system import samples_in


class References(Protocol):
    """What a trajectory is compared with; a Relaxation computes it when first asked."""

    @property
    def gradients(self) -> Mapping[str, Tensor]:
        """∂𝓛/∂x̄ of every unit by autograd, [batch, unit]."""

    @property
    def equilibrium(self) -> Mapping[str, Tensor] | None:
        """Where the rule's own dynamics settle, [batch, unit]; None if not known in closed form."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What was relaxed, and how: rule, time constants and loss, as one would write them."""

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        """Convergence times as roots of the closed form."""


def choose_reference(references: References, name: str) -> Mapping[str, Tensor]:
    """The reference of that name.

    Raises:
        InputError: an unknown name, or an equilibrium that has no closed form.
    """
    if name not in ("gradients", "equilibrium"):
        raise InputError(f"unknown reference {name!r}; choose 'gradients' or 'equilibrium'")
    found: Mapping[str, Tensor] | None = getattr(references, name)
    if found is None:
        raise InputError("this rule's equilibrium has no closed form; compare with 'gradients'")
    return found


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
    """The solver itself; its text, in a trajectory read back."""
    is_exact: bool = False
    """Whether this is the closed form of the ODE, for which convergence times are roots."""
    traces: Mapping[str, Tensor] = field(default_factory=dict)
    """z of the units that a Rule remembers, [time, batch, …]."""
    evaluations: int = 0
    """Evaluations of the right-hand side (sweeps, for Sweep; 0 for a closed form)."""
    learned: Learned | None = None
    """Weights at the last time and, where asked for, before; None where they stand still."""
    steady_at: Tensor | None = None
    """When each sample was found steady, [batch]; NaN: it ran to the last time. None: not asked."""

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
        """The solver, as one would write it in Python."""
        return str(self.solved_by)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units, hidden to output."""
        return tuple(self.activities)

    @property
    def stop_reason(self) -> list[str]:
        """Per sample why the relaxation ended: "steady state" or "last time"."""
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

        g belongs to the weights at t = 0, here and below; where they move, see
        ``Relaxation.moving_gradients``.
        """
        g = self.reference(reference)
        return {u: compare.relative_error(x, g[u], per_sample) for u, x in self.activities.items()}

    def cosine(self, reference: str = "gradients", per_sample: bool = False) -> dict[str, Tensor]:
        """Cosine between x^l and g^l of each unit, [time] or [time, batch]."""
        g = self.reference(reference)
        return {u: compare.cosine(x, g[u], per_sample) for u, x in self.activities.items()}

    def norm_ratio(
        self, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """‖x^l‖ / ‖g^l‖ of each unit, [time] or [time, batch]."""
        g = self.reference(reference)
        return {u: compare.norm_ratio(x, g[u], per_sample) for u, x in self.activities.items()}

    def convergence_time(
        self, tolerance: float = 1e-3, reference: str = "gradients", per_sample: bool = False
    ) -> dict[str, Tensor]:
        """First time after which ‖x^l − g^l‖ ≤ tolerance · ‖g^l‖ stays true, of each unit.

        A root of the closed form for ``ClosedForm()``, whatever the recorded times, and infinite if
        there is none. Otherwise interpolated between recorded times, and NaN if not yet reached.

        Returns:
            {unit: time}, [] each, or [batch] if ``per_sample``.
        """
        check_positive("tolerance", tolerance, such_as=1e-3)
        if self.is_exact:
            return self.references.exact_convergence_time(tolerance, reference, per_sample)
        errors = self.relative_error(reference, per_sample)
        return {unit: crossing_time(self.times, e, tolerance) for unit, e in errors.items()}

    def to_dataset(self) -> xr.Dataset:
        """Activities, BP gradients and the equilibrium as a Dataset, one variable each per unit.

        Weights that moved, and ψ, are in it as ``learned`` has them.
        """
        learned = self.learned or Learned(self.times)
        first = next(iter(self.activities.values()))
        batch = first.shape[1] if first.ndim > 1 else 0
        kinds: dict[str, tuple[Mapping[str, Tensor], str]] = {
            "weight": (learned.weights, "parameter {} as it moved"),
            "feedback": (learned.feedback, "feedback weights ψ of block {} as they moved"),
            "activity": (self.activities, "activity x of unit {}"),
            "trace": (self.traces, "activity trace z of unit {}"),
            "gradient": (self.references.gradients, "backprop gradient ∂L/∂x of unit {}"),
            "equilibrium": (self.references.equilibrium or {}, "equilibrium of the rule, unit {}"),
        }
        dataset = xr.Dataset(
            {
                f"{kind}_{unit}": _variable(kind, unit, x, long_name, batch)
                for kind, (tensors, long_name) in kinds.items()
                for unit, x in tensors.items()
            },
            coords={"time": ("time", self.times.numpy(), _TIME_ATTRIBUTES)},
            attrs={
                "title": "Activation relaxation: activities over time and their gradients",
                "unit_names": list(self.units),
                "solver": self.solver,
                "evaluations": self.evaluations,
            }
            | {name: self.references.settings[name] for name in _SETTINGS},
        )
        if self.steady_at is not None:
            steady = self.steady_at.double().cpu().numpy()
            dataset["steady_at"] = ("sample", steady, {"long_name": "time found steady"})
        if self.learned is not None:
            dataset["record"] = ("record", learned.times.numpy(), _RECORD_ATTRIBUTES)
        return dataset

    @staticmethod
    def from_dataset(dataset: xr.Dataset) -> "Trajectory":
        """A trajectory from what ``to_dataset`` returned; tensors on the CPU.

        Its convergence times are interpolated, whatever solved it.

        Raises:
            InputError: a dataset that holds no trajectory.
        """
        if "unit_names" not in dataset.attrs or "time" not in dataset.coords:
            raise InputError("this dataset holds no trajectory; save one with Trajectory.save")
        units = [str(unit) for unit in np.atleast_1d(dataset.attrs["unit_names"])]

        def read(kind: str) -> dict[str, Tensor]:
            names = [unit for unit in units if f"{kind}_{unit}" in dataset]
            return {u: _tensor(dataset[f"{kind}_{u}"]) for u in names}

        def all_of(kind: str) -> dict[str, Tensor]:
            names = [str(each) for each in dataset.data_vars if str(each).startswith(f"{kind}_")]
            return {name.removeprefix(f"{kind}_"): _tensor(dataset[name]) for name in names}

        learned = None
        if "record" in dataset.coords:
            learned = Learned(_tensor(dataset["record"]), all_of("weight"), all_of("feedback"))
        steady_at = dataset.get("steady_at")
        return Trajectory(
            _tensor(dataset["time"]),
            read("activity"),
            _Stored(
                read("gradient"),
                read("equilibrium") or None,
                {name: dataset.attrs[name] for name in _SETTINGS},
            ),
            dataset.attrs["solver"],
            traces=read("trace"),
            evaluations=int(dataset.attrs["evaluations"]),
            learned=learned,
            steady_at=None if steady_at is None else _tensor(steady_at),
        )

    def save(self, path: str | Path) -> None:
        """Write a netCDF file, whole or not at all.

        Raises:
            InputError: a place that cannot be written.
        """
        dataset = self.to_dataset()
        with written_whole(path, "choose another place") as part:
            dataset.to_netcdf(part, engine="h5netcdf")

    @staticmethod
    def load(path: str | Path) -> "Trajectory":
        """Read what ``save`` wrote.

        Raises:
            InputError: no such file, or one that holds no trajectory.
        """
        try:
            with xr.open_dataset(path, engine="h5netcdf") as dataset:
                return Trajectory.from_dataset(dataset.load())
        except OSError as error:
            raise InputError(f"cannot read {path} ({error}); pass a file from save()") from error


_SETTINGS = ("rule", "tau", "tau_trace", "loss", "plasticity")
_TIME_ATTRIBUTES = {"long_name": "time since the feed-forward pass", "units": "unit of tau"}
_RECORD_ATTRIBUTES = {"long_name": "time at which weights were kept", "units": "unit of tau"}
_LEADING_AXES = {
    "activity": ("time", "sample"),
    "trace": ("time", "sample"),
    "weight": ("record",),
    "feedback": ("record",),
}
"""Dimensions by kind; of gradients and the equilibrium: the samples."""


@dataclass(frozen=True)
class _Stored:
    """References read back from a file."""

    gradients: Mapping[str, Tensor]
    equilibrium: Mapping[str, Tensor] | None
    settings: Mapping[str, str]

    def exact_convergence_time(
        self, tolerance: float, reference: str, per_sample: bool
    ) -> dict[str, Tensor]:
        raise InputError("a stored trajectory has no closed form; relax it again to have the root")


def _tensor(values: xr.DataArray) -> Tensor:
    x = torch.tensor(values.to_numpy())
    return torch.view_as_complex(x) if values.attrs.get("complex") else x


def _variable(kind: str, unit: str, x: Tensor, long_name: str, batch: int) -> xr.Variable:
    """A tensor with named axes; complex numbers as a last axis of two, and half ones as float32."""
    lead = _LEADING_AXES.get(kind, ("sample",))
    attributes: dict[str, object] = {"long_name": long_name.format(unit)}
    if x.is_complex():
        x, attributes["complex"] = torch.view_as_real(x.resolve_conj()), 1
    if lead[-1] == "sample" and (x.ndim < len(lead) or x.shape[len(lead) - 1] != batch):
        lead = lead[:-1]  # of another size than the batch
    owner = f"{kind}_{unit}" if lead == ("record",) else unit
    axes = tuple(f"{owner}_axis{i}" for i in range(x.ndim - len(lead)))
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return xr.Variable(lead + axes, x.cpu().numpy(), attributes)
