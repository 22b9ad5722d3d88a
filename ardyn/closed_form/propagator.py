"""The propagator P of an error e = x − g, for each scheme: a matrix of units × units.

On a chain with a frozen or dropped derivative, e^l(t) = Σ_{m ≥ l} P_lm(t) J_{l→m} e^m(0), where
J_{l→m} pulls back from unit m to unit l and P is a function of one matrix M:

    the ODE itself                            exp(tM)
    its integral over time                    M⁻¹ (exp(tM) − 1)
    n steps of a Runge–Kutta method           R(hM)ⁿ, R its stability polynomial; 1 + z for Euler
    n sequential sweeps from the top          ((I − U)⁻¹ D)ⁿ, D = diag(1 − h/τ), U = superdiag(h/τ)

With one τ, P is Toeplitz and its rows are probability weights: Poisson(t/τ) for the ODE,
binomial(n, h/τ) for Euler, negative binomial for the sweep.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from ardyn.solvers.stability import Stepped
from ardyn.solvers.system import grid


class OneStep(Stepped, Protocol):
    """A scheme whose step depends on the last state alone, such as ``Fixed`` or ``Sweep``."""

    def step_matrix(self, M: Tensor, step: float) -> Tensor:
        """The matrix by which one step multiplies y of dy/dt = M y: R(hM) for Runge–Kutta."""


Scheme = OneStep | None
"""The time-stepping scheme; None is the ODE itself."""


def coupling(tau: tuple[float, ...]) -> Tensor:
    """M, [unit, unit] in feed-forward order: M_ll = −1/τ_l, M_{l,l+1} = +1/τ_l; float64."""
    # The generator of a Markov chain that moves from unit l to l + 1 at the rate 1/τ_l and is
    # absorbed above the output: a row of exp(tM) holds probabilities, the rest to 1 is absorbed.
    rate = 1 / torch.tensor(tau, dtype=torch.float64)
    return torch.diag(-rate) + torch.diag(rate[:-1], 1)


def propagator(scheme: Scheme, tau: tuple[float, ...], times: Tensor) -> Tensor:
    """P at each time, [time, unit, unit], float64.

    Args:
        scheme: the stepping scheme, or None for the ODE.
        tau: time constant of each relaxing unit, in feed-forward order.
        times: increasing, from 0 on.
    """
    if scheme is None:
        M = coupling(tau)
        # 128 at a time, as matrix_exp needs several times the memory of its result.
        return torch.cat([exponential(t[:, None, None] * M) for t in torch.split(times, 128)])
    # A stepping solver interpolates its states linearly between the nodes of its grid; they are
    # linear in P, so that interpolating P gives the same.
    nodes = grid(float(times[-1]), scheme.step)
    after = torch.searchsorted(nodes, times).clamp(max=len(nodes) - 1)
    before = (after - 1).clamp(min=0)
    length = nodes[after] - nodes[before]
    share = torch.where(length > 0, (times - nodes[before]) / length, 0.0)
    P = _at_nodes(scheme, tau, nodes, sorted({*before.tolist(), *after.tolist()}))
    ends = [torch.stack([P[i] for i in each.tolist()]) for each in (before, after)]
    return torch.lerp(ends[0], ends[1], share[:, None, None])


def exponential(A: Tensor) -> Tensor:
    """exp(A) = exp(A + 1) / e of square matrices, […, n, n].

    torch.matrix_exp (scaling and squaring; Higham, Functions of Matrices, Sec. 10.3) truncates its
    series too early for small norms in float64: the error is 3e-11 at a norm of 0.04.
    """
    # A and 1 commute, so that the identity is exact; the shift moves the norm out of that range.
    one = torch.eye(A.shape[-1], dtype=A.dtype)
    found: Tensor = torch.matrix_exp(A + one) / math.e
    return found


def trace_propagator(tau: tuple[float, ...], tau_trace: float, times: Tensor) -> Tensor:
    """P_z at each time: the effect of an error e(0) on a trace z, [time, unit, unit], float64.

    With ė = M e and ż = (e − z) / τ_z, P_z is the lower left block of
    exp(t [[M, 0], [1/τ_z, −1/τ_z]]), the convolution ∫ exp(−(t − s)/τ_z) exp(sM) ds / τ_z from 0
    to t (Van Loan, IEEE Trans. Autom. Control 23, 1978).
    """
    # One exponential of twice the size, rather than a formula that divides by τ − τ_z.
    M, n = coupling(tau), len(tau)
    both = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    both[:n, :n] = M
    both[n:, :n] = torch.eye(n, dtype=M.dtype) / tau_trace
    both[n:, n:] = -both[n:, :n]
    return exponential(times[:, None, None] * both)[:, n:, :n]


def time_integral(tau: tuple[float, ...], start: float, end: float) -> Tensor:
    """∫ exp(tM) dt = M⁻¹ (exp(end · M) − exp(start · M)), [unit, unit], float64."""
    M = coupling(tau)
    difference = exponential(end * M) - exponential(start * M)
    integral: Tensor = torch.linalg.solve_triangular(M, difference, upper=True)
    return integral


def _at_nodes(
    scheme: OneStep, tau: tuple[float, ...], nodes: Tensor, wanted: list[int]
) -> dict[int, Tensor]:
    """P at the wanted nodes of the step grid, whose last interval alone may be shorter."""
    # matrix_power squares repeatedly (Higham, Functions of Matrices, Sec. 4.1): n steps cost about
    # log₂(n) products of small matrices.
    whole = len(nodes) - 1
    last = float(nodes[-1] - nodes[-2]) if whole else 0.0
    if whole and not math.isclose(last, scheme.step, rel_tol=1e-6):
        whole -= 1
    M = coupling(tau)
    R = scheme.step_matrix(M, scheme.step)
    reached, power, P = 0, torch.eye(len(R), dtype=R.dtype), {}
    for node in wanted:
        power = torch.linalg.matrix_power(R, min(node, whole) - reached) @ power
        reached = min(node, whole)
        P[node] = power if node <= whole else scheme.step_matrix(M, last) @ power
    return P
