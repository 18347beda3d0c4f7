"""The Universal Scalability Law, fitted to measured rates, with intervals.

``X(N) = rate N / (1 + contention (N - 1) + coherence N (N - 1))``: contention is the share of the work that waits for something
shared, coherence what workers cost each other in pairs. Three numbers need rates at three numbers of workers; with fewer the fit
says what it assumes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

#: Draws of the bootstrap.
DRAWS: Final = 1000
#: Numbers of workers that the three parameters need.
NEEDED: Final = 3


@dataclass(frozen=True, slots=True)
class ScalabilityLaw:
    """A fitted law.

    Attributes
    ----------
    rate : float
        Photos per second of one worker.
    contention, coherence : float
        0 or more; those that were not fitted are 0.
    fitted : tuple of str
        The parameters that the points determine; the others are assumed to be 0.
    """

    rate: float
    contention: float
    coherence: float
    fitted: tuple[str, ...]

    def at(self, workers: float) -> float:
        """Return the photos per second of a number of workers."""
        return self.rate * workers / (1 + self.contention * (workers - 1) + self.coherence * workers * (workers - 1))

    @property
    def peak(self) -> float | None:
        """Number of workers beyond which the rate falls; None if it never does."""
        if self.coherence <= 0:
            return None
        return max(1.0, math.sqrt(max(0.0, 1 - self.contention) / self.coherence))


def fit(rates: Mapping[int, float]) -> ScalabilityLaw:
    """Fit the law by least squares of relative errors, with parameters of 0 or more.

    Parameters
    ----------
    rates : mapping
        Number of workers to photos per second; with two numbers coherence is assumed to be 0, with one both.

    References
    ----------
    Gunther, N. J. (2007), Guerrilla Capacity Planning, chapter 4. ``N / X(N)`` is linear in 1 / rate, contention / rate and
    coherence / rate.
    """
    workers = np.array(sorted(rates), np.float64)
    measured = np.array([rates[int(n)] for n in workers])
    names = ("rate", "contention", "coherence")[: min(NEEDED, len(workers))]
    columns = np.stack([np.ones_like(workers), workers - 1, workers * (workers - 1)], axis=1)[:, : len(names)]
    weights = measured / workers  # an error of 1 % counts the same at every number of workers
    found, _ = nnls(columns * weights[:, None], np.ones_like(workers))
    values: list[float] = [*found.tolist(), *([0.0] * (NEEDED - len(names)))]
    one, contention, coherence = max(values[0], 1e-12), *values[1:]
    return ScalabilityLaw(1 / one, contention / one, coherence / one, names)


def intervals(
    repeats: Mapping[int, Sequence[float]], *, draws: int = DRAWS, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of the parameters, by a bootstrap over the repeats of every number of workers.

    A parameter that is not fitted has no interval.

    Parameters
    ----------
    repeats : mapping
        Number of workers to the photos per second of each repeat; the law is fitted to their medians.
    """
    rng = np.random.default_rng(seed)
    drawn: list[ScalabilityLaw] = []
    for _ in range(draws):
        medians = {
            n: float(np.median(rng.choice(np.asarray(found, np.float64), len(found)))) for n, found in repeats.items()
        }
        drawn.append(fit(medians))
    return {name: _between(np.array([getattr(law, name) for law in drawn])) for name in fit_names(len(repeats))}


def fit_names(points: int) -> tuple[str, ...]:
    """Return the names of the parameters that so many numbers of workers determine."""
    return ("rate", "contention", "coherence")[: min(NEEDED, points)]


def _between(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
