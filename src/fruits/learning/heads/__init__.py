"""A head: from features to one logit per label. What every head can do, and which there are.

A head has four parts: ``fit``, ``logits``, ``arrays`` and ``add_to_graph``. What is around it (held-back photos, choice of its
setting, temperature, certainty, protocols, bundle) is the same for all. A head of another package is found by its entry point
in ``fruits.heads``. Knows nothing of files or of ONNX itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fruits import extensions
from fruits.errors import FruitsError

#: A head learns from at most this many photos: beyond, memory and time grow and its accuracy does not.
MAX_ROWS: Final = 200_000


class LabelsError(FruitsError, ValueError):
    """The labels leave nothing to tell apart."""


class Graph(Protocol):
    """An ONNX graph to which a head appends its steps; values are known by their names.

    Attributes
    ----------
    opset : int
        Version of ONNX's operators.
    """

    opset: int

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        """Add a constant, int64 or float32; return its name in the graph."""
        ...

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of an operator of ONNX, such as ``MatMul``; return the name of its (first) output."""
        ...

    def sum(self, x: str, width: int, *, scale: float = 1.0) -> str:
        """Append the sum over the last axis, of that width, times a number; the axis stays, of width 1."""
        ...

    def largest(self, x: str, count: int) -> str:
        """Append the ``count`` largest values along the last axis, the largest first."""
        ...


class Head(Protocol):
    """A fitted head. To write one, derive from this: fit, logits, arrays and add_to_graph; the rest is there.

    Attributes
    ----------
    arrays : mapping of str to (str, tuple of str)
        What a bundle keeps: name of each array (an attribute, and a keyword of the class), its NumPy type and the sizes of its
        axes. ``c`` is the number of labels, ``k`` that of features, digits are themselves; another letter is the same size
        wherever it stands.
    parameter : str
        What the one number is called that is chosen on photos held back.
    settings : tuple of float
        Values of it that are tried.
    default : float
        Used while the number of components is chosen, and where photos held back cannot decide.
    own_scale : bool
        Whether softmax of the logits is meant as probabilities. If not, settings are compared after temperature scaling.
    linear : bool
        Whether logits are linear in the features. Then class activation maps can be drawn.
    temperature : float
        By which logits are divided before softmax; set by calibration.
    converged : bool
        False if a solver stopped early; the head is then usable, if not the best.
    """

    arrays: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]
    parameter: ClassVar[str] = "setting"
    settings: ClassVar[tuple[float, ...]] = (1.0,)
    default: ClassVar[float] = 1.0
    own_scale: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    temperature: float = 1.0
    converged: bool = True

    def __init__(self, **arrays: Any) -> None:
        for name, value in arrays.items():
            setattr(self, name, value)

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        labels: NDArray[np.int64],
        *,
        setting: float,
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit a head.

        Parameters
        ----------
        features : float32 array, shape (n, k)
        labels : int array, shape (n,)
            Every value from 0 to c - 1 occurs.
        setting : float
            One of ``settings``.
        weights : float64 array, shape (n,), optional
            What each row counts; 1 on average.
        """
        ...

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k), before temperature scaling."""
        ...

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """Append what ``logits`` computes, from the value named ``features``, (batch, k); return the name of the result."""
        ...

    def scaled_logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits divided by the temperature, shape (n, c)."""
        logits = np.asarray(self.logits(features), np.float32)
        return logits if self.temperature == 1 else logits / np.float32(self.temperature)

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities of shape (n, c), rows summing to 1, for features of shape (n, k)."""
        return softmax(self.scaled_logits(features))

    def temperature_scaled(self, temperature: float) -> Self:
        """Return the head with its logits divided by a temperature: the same answers, more or less sure of them."""
        cooled = copy.copy(self)
        object.__setattr__(cooled, "temperature", self.temperature * temperature)
        return cooled


def get_head(name: str) -> type[Head]:
    """Return the head of a name: ``logistic``, ``knn``, or one that another package adds (entry point ``fruits.heads``).

    Raises
    ------
    ConfigError
        If there is none.
    ExtensionError
        If another package brings it and it is no head.
    """
    found = extensions.get("head", name)
    head: type[Head] = found.load()
    lacking = [
        part
        for part in ("fit", "logits", "add_to_graph", "temperature_scaled")
        if not callable(getattr(head, part, None))
    ]
    if lacking or not isinstance(getattr(head, "arrays", None), Mapping) or not isinstance(head, type):
        found.fail(f"lacks {', '.join(lacking) or 'arrays'}: expected a class derived from fruits.learning.heads.Head")
    return head


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, rows summing to 1, of logits of shape (n, c)."""
    powers = logits - logits.max(axis=1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return np.asarray(powers, np.float32)
