"""ardyn: activation relaxation as a continuous-time dynamical system.

Time is in whatever unit the time constants are given in; tensors are [batch, unit], and a
trajectory [time, batch, unit]. "The paper" is Millidge et al., Investigating the scalability and
biological plausibility of the activation relaxation algorithm (2020).
"""

from importlib.metadata import version

from ardyn.analysis.trajectory import Trajectory
from ardyn.averaging import mean_field
from ardyn.closed_form.solver import ClosedForm
from ardyn.dynamics.feedback import random_feedback
from ardyn.dynamics.plasticity import Plasticity
from ardyn.dynamics.rule import Rule
from ardyn.ensembles import ensemble, ensemble_size, member
from ardyn.errors import ArdynError, DivergenceError, InputError
from ardyn.models import cnn, mlp
from ardyn.relaxation import Relaxation
from ardyn.solver_names import SOLVER_NAMES, solver_named
from ardyn.solvers.collocation import Collocation
from ardyn.solvers.integrators import ADAPTIVE_METHODS, FIXED_METHODS, Adaptive, Fixed
from ardyn.solvers.monitor import SteadyState
from ardyn.solvers.sweep import Sweep
from ardyn.training import Learner, backprop, backward, batches, evaluate

__all__ = [
    "ADAPTIVE_METHODS",
    "FIXED_METHODS",
    "SOLVER_NAMES",
    "Adaptive",
    "ArdynError",
    "ClosedForm",
    "Collocation",
    "DivergenceError",
    "Fixed",
    "InputError",
    "Learner",
    "Plasticity",
    "Relaxation",
    "Rule",
    "SteadyState",
    "Sweep",
    "Trajectory",
    "backprop",
    "backward",
    "batches",
    "cnn",
    "ensemble",
    "ensemble_size",
    "evaluate",
    "mean_field",
    "member",
    "mlp",
    "random_feedback",
    "solver_named",
]

__version__ = version("ardyn")
