"""The tasks by diffrax, compiled by JAX before they are timed."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.problem import (
    ATOL,
    END,
    RTOL,
    SIZES,
    STEP,
    Outcome,
    Problem,
    Solve,
    Task,
)

METHODS = {
    "dopri5": diffrax.Dopri5(),
    "bosh3": diffrax.Bosh3(),
    "dopri8": diffrax.Dopri8(),
    "euler": diffrax.Euler(),
    "midpoint": diffrax.Midpoint(),
}
NEW_STAGES = {"dopri5": 6, "bosh3": 3, "dopri8": 13, "euler": 1, "midpoint": 2}
"""Evaluations of a step; an adaptive method has the first stage from the step before."""


def solve(problem: Problem, task: Task) -> Solve | None:
    """All but rk4; for steps per sample the solve of one sample is vectorized over the batch."""
    if task.method not in METHODS:
        return None
    # Arguments of the compiled function, not constants in it.
    y0 = jnp.asarray(problem.start.numpy())
    W = tuple(jnp.asarray(each.numpy()) for each in problem.W)
    local = jax.tree.map(lambda x: jnp.asarray(x.numpy()), (problem.slopes, problem.drive))

    def integrate(y: Any, local: Any, W: Any) -> Any:
        return _integrate(task, y, local, W)

    compiled = jax.jit(jax.vmap(integrate, (0, 0, None)) if task.is_per_sample else integrate)

    def run() -> Any:
        return jax.block_until_ready(compiled(y0, local, W))

    def outcome() -> Outcome:
        solution = run()
        ys = jnp.moveaxis(solution.ys, 1, 0) if task.is_per_sample else solution.ys
        steps = int(jnp.max(solution.stats["num_steps"]))
        evaluations = int(task.is_adaptive) + steps * NEW_STAGES[task.method]
        return Outcome(np.asarray(ys[-1]), evaluations)

    return Solve(run, outcome)


def _integrate(task: Task, y: Any, local: Any, W: Any) -> Any:
    """The solve of a batch, or of one sample, as diffrax has it."""
    # A purely integrating controller, as in the other libraries, is the default.
    control = diffrax.PIDController(rtol=RTOL, atol=ATOL, norm=_norm)
    times = jnp.asarray(task.times, jnp.float32)
    return diffrax.diffeqsolve(
        diffrax.ODETerm(_rate),
        METHODS[task.method],
        t0=0.0,
        t1=END,
        dt0=None if task.is_adaptive else STEP,
        y0=y,
        args=(local, W),
        saveat=diffrax.SaveAt(ts=times) if task.is_recorded else diffrax.SaveAt(t1=True),
        stepsize_controller=control if task.is_adaptive else diffrax.ConstantStepSize(),
    )


def _layers(y: Any) -> Any:
    return jnp.split(y, np.cumsum(SIZES)[:-1], axis=-1)


def _norm(y: Any) -> Any:
    """ardyn's error norm: the largest root mean square of a layer."""
    return jnp.max(jnp.stack([jnp.sqrt(jnp.mean(x**2)) for x in _layers(y)]))


def _rate(t: Any, y: Any, args: Any) -> Any:
    """The equation of ``Problem``; y is [batch, unit] or [unit]."""
    (slopes, drive), W = args
    x = _layers(y)
    rates = [(x[i + 1] * slopes[i]) @ W[i] - x[i] for i in range(3)]
    return jnp.concatenate([*rates, drive - x[-1]], axis=-1)
