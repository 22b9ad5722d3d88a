"""Solvers by name, as given on a command line or in a configuration."""

from ardyn.closed_form.solver import ClosedForm
from ardyn.errors import check_choice
from ardyn.solvers.collocation import Collocation
from ardyn.solvers.integrators import ADAPTIVE_METHODS, FIXED_METHODS, Adaptive, Fixed
from ardyn.solvers.sweep import Sweep
from ardyn.solvers.system import Solver

SOLVER_NAMES = ("exact", "sweep", "collocation", *FIXED_METHODS, *ADAPTIVE_METHODS)
"""``exact`` is the closed form of the ODE, ``sweep`` the authors' scheme, ``collocation`` that of
Chebyshev; the others are torchdiffeq's methods."""


def solver_named(name: str, step: float = 0.1, rtol: float = 1e-6, atol: float = 1e-9) -> Solver:
    """The solver of that name.

    Args:
        name: one of ``SOLVER_NAMES``.
        step: step of ``sweep`` and the fixed-step methods, in units of time.
        rtol: relative tolerance of the adaptive methods and of ``collocation``.
        atol: absolute tolerance of the same, in the activities' units.

    Raises:
        InputError: an unknown name (the message suggests a similar one), a step or tolerance ≤ 0.
    """
    check_choice("solver", name, SOLVER_NAMES)
    if name == "exact":
        return ClosedForm()
    if name == "sweep":
        return Sweep(step)
    if name == "collocation":
        return Collocation(rtol, atol)
    if name in FIXED_METHODS:
        return Fixed(name, step)
    return Adaptive(name, rtol, atol)
