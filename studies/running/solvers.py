"""What studies ask of a solver."""

from typing import Protocol, TypeGuard

from ardyn.closed_form.propagator import OneStep
from ardyn.solvers.system import Solver

STEPLESS = frozenset({"exact", "collocation"})
"""Names of the solvers that do not step through time, which plastic weights need."""


class OneStepSolver(OneStep, Solver, Protocol):
    """A fixed-step solver of which ``ClosedForm`` gives the result without stepping."""


def is_one_step(solver: Solver) -> TypeGuard[OneStepSolver]:
    """Whether each step depends on the last state alone, so that the scheme has a closed form."""
    return hasattr(solver, "step_matrix") and getattr(solver, "is_one_step", True)


def takes_steps(solver: Solver) -> bool:
    """Whether it steps through time, so that weights can change during the relaxation."""
    return bool(getattr(solver, "steps", True))
