"""Polynomials given by their values at Chebyshev points: coefficients, interpolation, collocation.

Trefethen, Spectral Methods in MATLAB, ch. 5 and 6.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial.chebyshev import chebder, chebvander
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def points(degree: int) -> Array:
    """Chebyshev points of [−1, 1], increasing, both ends among them, [degree + 1]."""
    return np.asarray(-np.cos(np.pi * np.arange(degree + 1) / degree))


@lru_cache(maxsize=64)
def _coefficients(degree: int) -> Array:
    """Coefficients of the T_k of a polynomial, from its values at the points, [k, point]."""
    return np.asarray(np.linalg.inv(chebvander(points(degree), degree)))


@lru_cache(maxsize=64)
def last_coefficients(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The last two coefficients, which tell how well the degree suffices, [2, point]."""
    return torch.from_numpy(_coefficients(degree)[-2:]).to(device, dtype)


def interpolation(degree: int, s: Array) -> Array:
    """Values at s within [−1, 1], from those at the points, [s, point]."""
    return np.asarray(chebvander(s, degree) @ _coefficients(degree))


@lru_cache(maxsize=256)
def response(degree: int, ratio: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """x at all points, from x at the first and u at all others, [point, point].

    x is the polynomial that obeys τ dx/dt = −x + u at all points but the first of a window of
    length h; ``ratio`` is h/τ.
    """
    one = np.eye(degree + 1)
    slopes = chebvander(points(degree), degree - 1) @ chebder(one) @ _coefficients(degree)
    # dx/ds + x h/2τ = u h/2τ, s from −1 to 1; divided by 1 + h/2τ against rounding at large h/τ.
    share = ratio / (2 + ratio)
    equation = (1 - share) * slopes + share * one
    equation[0] = one[0]
    found = np.linalg.inv(equation)
    found[:, 1:] *= share
    return torch.from_numpy(found).to(device, dtype)
