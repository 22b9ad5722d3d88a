"""torchdiffeq's integrators by their own names, with adaptive steps or one fixed step."""

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ardyn.errors import InputError, check_choice, check_positive
from ardyn.solvers.monitor import StepMonitor
from ardyn.solvers.per_sample import adaptive_by_sample
from ardyn.solvers.stability import check_stable, check_tolerance
from ardyn.solvers.stepping import Control, adaptive_steps, fixed_steps
from ardyn.solvers.system import Separable, Solution, Stop, System, grid
from ardyn.solvers.tableaux import Tableau, tableau_of
from ardyn.state import State

# Written out, as torchdiffeq imports SciPy, and takes a third of the time that torch takes. It is
# imported when a solver is first used.
FIXED_METHODS = (
    "euler",
    "midpoint",
    "heun2",
    "heun3",
    "rk4",
    "explicit_adams",
    "implicit_adams",
    "fixed_adams",
)
"""torchdiffeq's methods of constant step."""
ADAPTIVE_METHODS = ("dopri8", "dopri5", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")
"""torchdiffeq's methods with adaptive steps."""


Engine = Literal["ardyn", "torchdiffeq"]
_CONTROLS = frozenset(each.name for each in fields(Control)) - {"rtol", "atol"}
"""Options of adaptive methods that ardyn's own stepper takes; with others, torchdiffeq steps."""


@dataclass(frozen=True)
class Adaptive:
    """A torchdiffeq method with adaptive steps.

    torchdiffeq treats the batch as one system: one step size and one error norm for all samples,
    so that a sample's solution depends, within the tolerances, on the rest of its batch.
    ``per_sample`` gives each sample its own steps and error norm, as if it were solved alone; a
    stage of all samples is one evaluation.

    A step ends at the last recorded time, so that the final state has the accuracy of the method;
    states at earlier times are interpolated within steps, by torchdiffeq's polynomial of order 4.

    Args:
        method: one of ``ADAPTIVE_METHODS``.
        rtol: relative error allowed per step.
        atol: absolute error allowed per step, in the activities' units.
        per_sample: every sample with its own steps.
        options: options of the method, such as ``{"first_step": 0.1}``.
        engine: what takes the steps: "ardyn", or "torchdiffeq", whose steps are the same; it
            always takes those of methods that are not explicit Runge–Kutta methods.

    Raises:
        InputError: an unknown method or option, or a tolerance that is not positive.
    """

    method: str = "dopri5"
    rtol: float = 1e-6
    atol: float = 1e-9
    per_sample: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    engine: Engine = "ardyn"

    def __post_init__(self) -> None:
        if self.method in FIXED_METHODS:
            raise InputError(
                f"'{self.method}' has a fixed step; use Fixed('{self.method}', step=0.1)"
            )
        check_choice("adaptive method", self.method, ADAPTIVE_METHODS)
        check_positive("rtol", self.rtol, such_as=1e-6)
        check_positive("atol", self.atol, such_as=1e-9)
        _check_options(self.method, self.options)
        check_choice("engine", self.engine, get_args(Engine))

    def solve(self, system: System, times: Tensor, stop: Stop | None = None) -> Solution:
        """Integrate from t = 0, recording at ``times``."""
        if not self.per_sample:
            return self._integrate(system, times, stop)
        # Made even if all are solved at once, as samples that depend on one another are refused.
        alone = _samples(system)
        if self._tableau and getattr(system, "is_autonomous", False):
            return self._step(adaptive_by_sample, self._tableau, system, times, stop)
        return _joined([self._integrate(each, times, stop) for each in alone])

    @property
    def _tableau(self) -> Tableau | None:
        """For ardyn's own steps; None where torchdiffeq takes them."""
        is_own = self.engine == "ardyn" and _CONTROLS.issuperset(self.options)
        return tableau_of(self.method) if is_own else None

    def _step(
        self,
        run: Callable[[StepMonitor, Tensor, Tableau, Control], State],
        tableau: Tableau,
        system: System,
        times: Tensor,
        stop: Stop | None,
    ) -> Solution:
        monitor = StepMonitor(system, stop, self.method)
        options = {
            name: None if value is None else float(value) for name, value in self.options.items()
        }
        control = Control(self.rtol, self.atol, **options)  # type: ignore[arg-type]
        record = run(monitor, times, tableau, control)
        return Solution(record, monitor.evaluations, monitor.steady_at)

    def check(self, system: System, stop: Stop | None = None) -> None:
        """Raise InputError for a tolerance, ``per_sample`` or a stop that cannot be used here."""
        check_tolerance(self.rtol, system.initial().tensors()[0].dtype)
        if self.per_sample and not isinstance(system, Separable):
            raise InputError(
                "per_sample=True needs a system of independent samples, with a method samples(), "
                "and with plastic weights all samples change the same weights; drop per_sample"
            )
        if stop is not None and not _takes_callbacks(self.method):
            raise InputError(
                f"'{self.method}' delegates stepping to SciPy, which has no step callback, so that "
                f"it cannot stop at a steady state; use 'dopri5' or a fixed step"
            )

    def _integrate(self, system: System, times: Tensor, stop: Stop | None) -> Solution:
        if self._tableau:
            return self._step(adaptive_steps, self._tableau, system, times, stop)
        options = dict(self.options)
        if _takes_callbacks(self.method):
            options.setdefault("step_t", times[-1:])
        return _integrate(system, times, stop, self.method, options, rtol=self.rtol, atol=self.atol)


@dataclass(frozen=True)
class Fixed:
    """A torchdiffeq method of constant step h, on the grid 0, h, 2h, …

    The last step is shortened to end at the last recorded time; between grid points a recorded
    state is interpolated linearly. The Adams methods run at order 4 unless ``options`` sets
    another ``max_order``: torchdiffeq's default, 12, is stable only for h/τ below 0.006 (explicit)
    or 0.09 (implicit).

    Args:
        method: one of ``FIXED_METHODS``; "euler" is Algorithm 1 of the paper.
        step: h, in units of time.
        options: options of the method.
        engine: as for ``Adaptive``.

    Raises:
        InputError: an unknown method or option, or a step that is not positive.
    """

    method: str = "euler"
    step: float = 0.1
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    engine: Engine = "ardyn"

    def __post_init__(self) -> None:
        if self.method in ADAPTIVE_METHODS:
            raise InputError(
                f"'{self.method}' chooses its own steps; use Adaptive('{self.method}')"
            )
        check_choice("fixed-step method", self.method, FIXED_METHODS)
        check_positive("the step", self.step, such_as=0.1)
        for name in ("step_size", "grid_constructor", "interp"):
            if name in self.options:
                raise InputError(f"option {name!r} is set by ardyn; use step={self.step:g} instead")
        _check_options(self.method, self.options)
        check_choice("engine", self.engine, get_args(Engine))

    def check(self, system: System, stop: Stop | None = None) -> None:
        """Raise InputError for a step that is unstable."""
        check_stable(self, system.time_constants)

    def solve(self, system: System, times: Tensor, stop: Stop | None = None) -> Solution:
        """Integrate from t = 0, recording at ``times``."""
        tableau = tableau_of(self.method)
        if self.engine == "ardyn" and tableau and not self.options:
            monitor = StepMonitor(system, stop, self.method)
            record = fixed_steps(monitor, times, tableau, self.step)
            return Solution(record, monitor.evaluations, monitor.steady_at)
        options = self._own_options | {"grid_constructor": self._grid}
        return _integrate(system, times, stop, self.method, options)

    @property
    def name(self) -> str:
        """Name of the method in messages."""
        return f"'{self.method}'"

    @property
    def _own_options(self) -> dict[str, Any]:
        if not self.method.endswith("_adams"):
            return dict(self.options)
        # max_order − 1 known values of f are used: the explicit method has that order, and the
        # corrector of the implicit one, which also uses the new f, one more: 4 for both here.
        return {"max_order": 5 if self.method == "explicit_adams" else 4} | dict(self.options)

    def _grid(self, f: object, y0: object, t: Tensor) -> Tensor:
        return grid(float(t[-1]), self.step).to(t)

    def step_matrix(self, rate: Tensor, step: float) -> Tensor:
        """R(hM), by which one step multiplies y of dy/dt = M y; R is the stability polynomial.

        M is [n, n]. Of Adams' methods it is that of their first step, by torchdiffeq itself.
        """
        tableau = tableau_of(self.method)
        if tableau and not self.options:
            return tableau.step_matrix(rate, step)
        return _run_linear(self.method, self._own_options, rate, step, steps=1)

    @functools.cached_property
    def is_one_step(self) -> bool:
        """Whether a step depends on the last state alone: then n steps multiply by R(hM)ⁿ."""
        # An Adams method takes Runge–Kutta steps until it has three values of f, so that one or two
        # steps would not tell it from rk4, to which a max_order below 4 does reduce it.
        rate, step, steps = -torch.ones(1, 1, dtype=torch.float64), 0.3, 12
        solved = _run_linear(self.method, self._own_options, rate, step, steps)
        return bool(torch.isclose(solved, self.step_matrix(rate, step) ** steps, rtol=1e-9))

    def growth(self, step_over_tau: float) -> float:
        """|R(−h/τ)|: the factor by which one step multiplies |x| of the leak dx/dt = −x/τ.

        For a multistep method the mean factor of many steps, which tends to the largest |ζ| with
        ρ(ζ) + (h/τ) σ(ζ) = 0 (Hairer and Wanner, Solving Ordinary Differential Equations II,
        Sec. V.1).
        """
        if self.is_one_step:
            rate = -torch.ones(1, 1, dtype=torch.float64)
            return float(self.step_matrix(rate, step_over_tau).abs().nan_to_num(math.inf))
        # Measured rather than computed from ρ and σ, as torchdiffeq solves the implicit equation
        # only to a tolerance, by at most four iterations. After 100 steps the largest root
        # dominates, whatever the starting values.
        first, last = (self._size_after(steps, step_over_tau) for steps in (100, 200))
        return math.inf if math.isinf(last) else (last / first) ** 0.01

    def _size_after(self, steps: int, step_over_tau: float) -> float:
        """|y| of dy/dt = −y/τ after that many steps, the largest of the last ten."""
        # Ten, as a complex pair of roots oscillates, and a single |y| may be close to a zero.
        nodes = step_over_tau * torch.arange(steps + 1, dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        y = _odeint(lambda t, y: -y, one, nodes, self.method, self._own_options)
        return float(y[-10:].abs().max().nan_to_num(math.inf))


def _samples(system: System) -> list[System]:
    """Each sample as a system of its own."""
    assert isinstance(system, Separable)
    batch = system.initial().tensors()[0].shape[0]
    return [system.samples(slice(i, i + 1)) for i in range(batch)]


def _joined(alone: list[Solution]) -> Solution:
    """The solution of a batch from those of its samples."""
    records = zip(*(each.record.tensors() for each in alone), strict=True)
    steady = [each.steady_at for each in alone if each.steady_at is not None]
    return Solution(
        alone[0].record.with_tensors([torch.cat(each, dim=1) for each in records]),
        sum(each.evaluations for each in alone),
        torch.cat(steady) if steady else None,
    )


def _integrate(
    system: System,
    times: Tensor,
    stop: Stop | None,
    method: str,
    options: dict[str, Any],
    **tolerances: float,
) -> Solution:
    """One call of torchdiffeq from t = 0; its failures become DivergenceErrors of ardyn."""
    monitor = StepMonitor(system, stop, method)
    monitored: Callable[..., Any] = monitor
    if not _takes_callbacks(method):
        monitored = monitor.__call__  # torchdiffeq warns of callbacks that a method would ignore
    initial = monitor.names.tensors()
    # torchdiffeq takes the first time as that of the initial state.
    from_zero = times if times[0] == 0 else torch.cat([times.new_zeros(1), times])
    from_zero = from_zero.to(initial[0].device)
    try:
        solution = _odeint(monitored, initial, from_zero, method, options, **tolerances)
    except AssertionError as error:
        raise monitor.stuck(str(error)) from error
    record = monitor.names.with_tensors([x[-len(times) :] for x in solution])
    # SciPy's solve_ivp returns fewer times where it fails, and torchdiffeq does not check for it.
    if len(solution[0]) != len(from_zero) or not all(x.isfinite().all() for x in record.tensors()):
        raise monitor.divergence(record, f"after {monitor.clock(monitor.last_time)}")
    if _takes_callbacks(method):
        monitor.callback_step(times[-1], tuple(x[-1] for x in solution))
    return Solution(record, monitor.evaluations, monitor.steady_at)


def _takes_callbacks(method: str) -> bool:
    """Whether torchdiffeq takes the steps itself, rather than SciPy."""
    from torchdiffeq._impl.odeint import SOLVERS

    return "callback_step" in SOLVERS[method].valid_callbacks()


def _odeint(f: Any, y0: Any, t: Tensor, method: str, options: Any, **tolerances: float) -> Any:
    """``torchdiffeq.odeint``, without the warning that Adams' corrector iterations raise."""
    import torchdiffeq

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Functional iteration did not converge")
        return torchdiffeq.odeint(f, y0, t, method=method, options=dict(options), **tolerances)


def _run_linear(
    method: str, options: Mapping[str, Any], rate: Tensor, step: float, steps: int
) -> Tensor:
    """The solution operator of dy/dt = M y after some equal steps, in float64, [n, n]."""
    nodes = step * torch.arange(steps + 1, dtype=torch.float64)
    identity = torch.eye(len(rate), dtype=torch.float64)
    operator: Tensor = _odeint(lambda t, y: rate @ y, identity, nodes, method, options)[-1]
    return operator


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    """Try the options on a scalar equation, as torchdiffeq only warns of unknown names."""
    if not options:
        return
    import torchdiffeq

    y, t = (torch.ones(1, dtype=torch.float64),), torch.tensor([0.0, 0.01], dtype=torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", ".*Unexpected arguments")
            torchdiffeq.odeint(
                lambda _, y: tuple(-x for x in y), y, t, method=method, options=dict(options)
            )
    except Exception as error:
        raise InputError(
            f"'{method}' does not accept the options {dict(options)!r} ({error}); see the list of "
            f"its options in torchdiffeq's documentation"
        ) from error
