"""Training with AR: the weight update at the end of a relaxation, in place of loss.backward()."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ardyn.closed_form.solver import ClosedForm
from ardyn.dynamics.learning import accumulate
from ardyn.dynamics.loss import Loss, loss_function
from ardyn.dynamics.plasticity import check_is_plasticity, check_window_within
from ardyn.dynamics.rule import Rule
from ardyn.dynamics.windows import check_steps
from ardyn.ensembles import ensemble_size
from ardyn.errors import (
    DivergenceError,
    InputError,
    StepSums,
    check_choice,
    check_positive,
    is_finite,
    postponing,
)
from ardyn.network.forward_pass import Driven
from ardyn.network.network import Units
from ardyn.network.run import arguments_of
from ardyn.recording import Recorder
from ardyn.relaxation import Relaxation
from ardyn.setup import Setup
from ardyn.solvers.system import Solver


def backward(
    model: nn.Module,
    inputs: Any,
    targets: Any,
    loss: Loss = "sse",
    rule: Rule | Mapping[str, Rule] = Rule(),  # noqa: B008  (frozen)
    tau: float | Sequence[float] = 1.0,
    duration: float = 10.0,
    solver: Solver = ClosedForm(),  # noqa: B008  (frozen)
    feedback: Mapping[str, Tensor] | None = None,
    tau_trace: float | None = None,
    units: Units = "block",
) -> Tensor:
    """Relax, then add AR's estimate of the gradient to every parameter's ``.grad``.

    Stands where ``loss.backward()`` would: any torch optimiser then takes its step. Where a Rule
    says that ψ is learned, it has its ``.grad`` too (Eq. 3); hand it to the optimiser as well.

    Args:
        duration: length of the relaxation, in the unit of ``tau``; the paper's is 10 τ.
        solver: how to relax; the default is exact, and needs a linear Rule.

    The other arguments are those of ``Relaxation``.

    Returns:
        𝓛, summed over the batch, [].

    Raises:
        InputError, DivergenceError: as ``Relaxation`` and its ``solve``.
    """
    check_positive("duration", duration, such_as=10)
    sim = Relaxation(model, inputs, targets, loss, rule, tau, feedback, tau_trace, units)
    _relax_and_accumulate(sim, duration, solver)
    return sim.loss_value


def _relax_and_accumulate(sim: Relaxation, duration: float, solver: Solver) -> None:
    if not any(p.requires_grad for p in sim.dynamics.forward_pass.run.parameters.values()):
        name = type(sim.model).__name__
        raise InputError(f"no parameter of {name} requires a gradient; use requires_grad_()")
    final = sim.solve([duration], solver)
    x = {unit: final[unit][-1] for unit in final.units}
    z = {unit: trace[-1] for unit, trace in final.traces.items()}
    with torch.no_grad():
        accumulate(sim.dynamics, x, z, sim.penalty, sim.setup.psi)


def backprop(model: nn.Module, inputs: Any, targets: Any, loss: Loss = "sse") -> Tensor:
    """The same by backpropagation: fills ``.grad``, returns 𝓛 summed over the batch."""
    args, kwargs = arguments_of(inputs)
    value = loss_function(loss)(model(*args, **kwargs), targets)
    torch.autograd.backward(value)
    return value.detach()


def _learns_feedback(rule: Rule | Mapping[str, Rule]) -> bool:
    rules = [rule] if isinstance(rule, Rule) else rule.values()
    return any(each.feedback == "learned" for each in rules)


Method = Literal["ar", "bp"]


@dataclass(frozen=True)
class Learner(Setup):
    """A network, or an ensemble, that learns from one batch after another.

    The phasic scheme: relax with the weights fixed, then W ← W − lr · (…)(T) (paper, Algorithm 1);
    or backprop in the same loop, to compare with. Or, with ``plasticity`` in place of an optimiser,
    the continuous scheme: each batch is a stimulus of that duration, with a feed-forward sweep at
    its onset; weights change during the window of plasticity, and keep their values at the end of
    one stimulus for the next.

    Args:
        model: any module that backprop trains.
        optimiser: any of torch's, over the model's parameters, and over ψ where it is learned.
        method: "ar", or "bp" for backprop by autograd, for which only ``loss`` matters.
        duration: length of the relaxation, in the unit of ``tau``; the paper's is 10 τ.
        solver: how to relax; the default is exact, and needs a linear Rule.
        plasticity: time constants of the weights, and their window within each stimulus; needs a
            solver that steps.
        capture: whether to record the tensor operations of a step and repeat them without Python,
            on a GPU as a CUDA graph. By default that is done for AR where the module consists of
            torch's own layers. With True it is done for any module, which must take the same
            operations with the same Python numbers at every batch: its Python code is not run
            again.

    The others are those of ``Relaxation``. Training changes the model's parameters in place, and
    nothing else of it.
    """

    optimiser: torch.optim.Optimizer | None = None
    method: Method = "ar"
    _: KW_ONLY
    duration: float = 10.0
    solver: Solver = ClosedForm()  # noqa: RUF009  (frozen)
    capture: bool | None = None
    _steps: StepSums = field(default_factory=StepSums, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("duration", self.duration, such_as=10)
        check_choice("method", self.method, get_args(Method))
        if (self.optimiser is None) == (self.plasticity is None):
            raise InputError(
                f"a Learner needs an optimiser, or plasticity, got "
                f"{'neither' if self.optimiser is None else 'both'}: weights change at the end of "
                f"a relaxation, or during it; pass one of them"
            )
        if self.plasticity is not None and self.method == "bp":
            raise InputError("backprop has no plasticity in time; pass an optimiser instead")
        if self.plasticity is not None:
            check_is_plasticity(self.plasticity)
            check_steps(self.plasticity, self.solver)
            check_window_within(self.plasticity.window, self.duration)
        if self.capture not in (None, True, False):
            raise InputError(f"capture must be True, False or None, got {self.capture!r}; drop it")
        if self.capture and self.method == "ar" and getattr(self.solver, "steps", True):
            raise InputError(
                f"capture=True needs the closed form, got {self.solver!r}; drop solver, or capture"
            )
        self._check_optimiser()

    def _check_optimiser(self) -> None:
        if self.optimiser is None:
            return
        taken = {id(p) for group in self.optimiser.param_groups for p in group["params"]}
        learning: dict[str, Tensor] = {
            n: p for n, p in self.model.named_parameters() if p.requires_grad
        }
        if self.method == "ar" and _learns_feedback(self.rule):
            learning |= {f"feedback of '{block}'": psi for block, psi in self.psi.items()}
        for name, p in learning.items():
            if id(p) not in taken:
                raise InputError(
                    f"the optimiser does not hold {name}, which is learned; make it over the "
                    f"model's parameters, and ψ where the Rule learns it, or use "
                    f"requires_grad_(False)"
                )

    def step(self, inputs: Any, targets: Any) -> Tensor:
        """Learn from one batch; 𝓛 before the update, summed over samples, [].

        From the second batch on no number is read back from the device, which would have to wait
        for it: ask ``check_finite`` now and then, such as after every epoch.

        Raises:
            InputError, DivergenceError: as ``backward``; at the first batch.
        """
        if self.optimiser is None:
            value = self._learn_during(inputs, targets)
            self._steps.add([])  # its solver has checked it
            return value
        found = self._recorder(self._fill_without_waiting, inputs, targets)
        self.optimiser.step()
        # The loss itself may exceed the range of half precision.
        self._steps.add(found if self.method == "bp" else found[1:])
        return found[0]

    @cached_property
    def _recorder(self) -> Recorder:
        is_wanted = False if self.method == "bp" and self.capture is None else self.capture
        return Recorder(self.model, self.psi, self.loss, is_wanted)

    def _fill_without_waiting(self, inputs: Any, targets: Any) -> list[Tensor]:
        """``fill_gradients``; returns 𝓛, and what is to be checked of the activities later."""
        sums: list[Tensor] = []
        with postponing(sums) if self._assigned else contextlib.nullcontext():
            value = self.fill_gradients(inputs, targets)
        return [value, *sums]

    def check_finite(self) -> None:
        """Raise DivergenceError if something became infinite or NaN since the last call.

        The message gives the first batch at which it was seen, counted from 1: it came with that
        batch, or with the update after the one before.
        """
        count, lost = self._steps.count, self._steps.first_lost()
        if lost is None and not is_finite([*self.model.parameters(), *self.psi.values()]):
            lost = count
        if lost is not None:
            raise DivergenceError(
                f"the loss, the activities or the weights are infinite or NaN, first seen at batch "
                f"{lost} of {count}; lower the learning rate, or look for such values in the "
                f"inputs and targets"
            )

    def feed_forward(self, inputs: Any, targets: Any) -> Driven:
        """The feed-forward pass on a batch; what only the first batch shows is checked there."""
        if not self._assigned:
            return super().feed_forward(inputs, targets)
        try:
            return self.pass_with({}, inputs, targets)
        except Exception:
            return super().feed_forward(inputs, targets)  # says what is wrong with the batch

    def fill_gradients(self, inputs: Any, targets: Any) -> Tensor:
        """The first half of a step: ``.grad`` of everything that learns; returns 𝓛."""
        self.model.zero_grad()
        for psi in self.psi.values():
            psi.grad = None
        if self.method == "bp":
            return backprop(self.model, inputs, targets, self.loss)
        sim = Relaxation.of(self, inputs, targets)
        _relax_and_accumulate(sim, self.duration, self.solver)
        return sim.loss_value

    def _learn_during(self, inputs: Any, targets: Any) -> Tensor:
        """Solve one stimulus with plastic weights."""
        sim = Relaxation.of(self, inputs, targets)
        learned = sim.solve([self.duration], self.solver).learned
        if learned is not None:
            with torch.no_grad():
                for name, W in learned.weights.items():
                    self.model.get_parameter(name).copy_(W[-1])
                for block, psi in learned.feedback.items():
                    self.psi[block].copy_(psi[-1])
        return sim.loss_value

    def state(self) -> dict[str, Any]:
        """All that learning changes, to be stored; the tensors themselves, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser and self.optimiser.state_dict(),
            "feedback": dict(self.psi),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from where ``state`` was taken."""
        self._steps.clear()
        self.model.load_state_dict(state["model"])
        if self.optimiser is not None:
            self.optimiser.load_state_dict(state["optimiser"])
        with torch.no_grad():
            for block, psi in self.psi.items():
                psi.copy_(state["feedback"][block])


def batches(samples: int, size: int, seeds: Sequence[int], epoch: int) -> Iterator[Tensor]:
    """The rows of every batch of an epoch, [seed · batch]: each seed has its own order.

    The order depends on the seed and the number of the epoch alone; the last batch may be smaller.

    Raises:
        InputError: a batch larger than the set, or seeds that are no whole numbers.
    """
    if not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise InputError(f"seeds must be whole numbers from 0 on, got {seeds!r}; pass such as [0]")
    if not isinstance(size, int) or not 1 <= size <= samples:
        raise InputError(f"batch size {size} must lie in 1 … {samples}, the whole set; lower it")
    orders = [np.random.default_rng((seed, epoch)).permutation(samples) for seed in seeds]
    for rows in torch.split(torch.from_numpy(np.stack(orders)), size, dim=1):
        yield rows.flatten()


@torch.no_grad()
def evaluate(
    model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss = "sse", chunk: int = 1000
) -> tuple[Tensor, Tensor]:
    """Mean loss per sample, and accuracy: the share of samples whose largest output is their class.

    Args:
        model: a network, or an ensemble, every member of which sees every sample.
        inputs: [sample, …].
        targets: one-hot, [sample, class], or class indices, [sample].
        chunk: samples evaluated at once, divided among the members.

    Returns:
        [member] each, float64.
    """
    check_positive("chunk", chunk, such_as=1000)
    if len(inputs) == 0 or len(inputs) != len(targets):
        raise InputError(
            f"{len(inputs)} inputs and {len(targets)} targets cannot be evaluated; pass one or "
            f"more, as many of each"
        )
    members, function = ensemble_size(model), loss_function(loss)
    losses, right = torch.zeros(2, members, dtype=torch.float64)
    size = max(1, int(chunk) // members)
    for x, t in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
        outputs = model(x.repeat(members, *[1] * (x.ndim - 1))).unflatten(0, (members, -1))
        losses += torch.stack([function(each, t) for each in outputs]).cpu()
        classes = t if t.ndim == 1 else t.argmax(-1)
        right += (outputs.argmax(-1) == classes).sum(1).cpu()
    return losses / len(inputs), right / len(inputs)
