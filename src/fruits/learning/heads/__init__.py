"""Heads: classifiers from features to one logit per label; their interface, and how to find one by name.

A head implements ``fit``, ``logits``, ``arrays`` and ``add_to_graph``. Everything else (validation, selection of its setting,
temperature, thresholds, protocols, bundle) is shared by all heads. A head of another package is found by its entry point in
``fruits.heads``. Independent of files, and of ONNX itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fruits import extensions
from fruits.errors import FruitsError
from fruits.learning.pca import TooFewRowsError

#: Most training photos of a head: more would cost memory and time without improving accuracy.
MAX_ROWS: Final = 200_000


class LabelsError(FruitsError, ValueError):
    """There are fewer than two different labels."""


class Graph(Protocol):
    """An ONNX graph to which a head appends its nodes; values are identified by name.

    Attributes
    ----------
    opset : int
        Version of the ONNX operator set.
    """

    opset: int

    def constant(self, name: str, value: NDArray[Any] | np.float32) -> str:
        """Add a constant, int64, int8 or float32; return its name in the graph."""
        ...

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of an ONNX operator, such as ``MatMul``; return the name of its (first) output."""
        ...

    def sum(self, x: str, width: int, *, scale: float = 1.0) -> str:
        """Append the sum over the last axis of size ``width``, times ``scale``; the axis is kept with size 1."""
        ...

    def largest(self, x: str, count: int) -> str:
        """Append the ``count`` largest values along the last axis, in descending order."""
        ...


class Head(Protocol):
    """A fitted head. To implement one, derive from this class and define fit, logits, arrays and add_to_graph.

    Attributes
    ----------
    arrays : mapping of str to (str, tuple of str)
        Arrays stored in a bundle: name (an attribute, and a keyword of the class), NumPy type, and sizes of the axes. ``c`` is
        the number of labels, ``k`` that of features, digits are literal; any other letter is the same size wherever it occurs.
    parameter : str
        Name of the hyperparameter that is selected on validation photos.
    settings : tuple of float
        Values of the hyperparameter that are tried.
    default : float
        Used while the number of components is selected, and if there are no validation photos.
    default_seen : float, optional
        Used instead of a selection where the backbone was trained on the validation photos; ``default`` if None.
    own_scale : bool
        Whether softmax of the logits is meant as probabilities. If not, settings are compared after temperature scaling.
    linear : bool
        Whether logits, or a part of them (``linear_part``), are linear in the features. Then class activation maps can be drawn.
    starts : bool
        Whether ``fit`` takes ``start``, a mapping from settings to heads fitted before on the same labels, and on the same
        features or the first of them, by which its solver begins.
    temperature : float
        Divisor of the logits before softmax; set by calibration.
    converged : bool
        False if a solver stopped early; the head is then usable but not optimal.
    """

    arrays: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]]
    parameter: ClassVar[str] = "setting"
    settings: ClassVar[tuple[float, ...]] = (1.0,)
    default: ClassVar[float] = 1.0
    default_seen: ClassVar[float | None] = None
    own_scale: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    starts: ClassVar[bool] = False
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
            Weight of each row; 1 on average.

        Raises
        ------
        TooFewRowsError
            If there are no rows.
        LabelsError
            If there is only one label.
        """
        ...

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, shape (n, c), of features of shape (n, k), before temperature scaling."""
        ...

    def add_to_graph(self, graph: Graph, features: str) -> str:
        """Append the computation of ``logits`` from the value named ``features``, (batch, k); return the name of the result."""
        ...

    @property
    def linear_part(self) -> Head:
        """The head whose logits the positions of a map explain: the head itself, if all of it is linear."""
        return self

    def scaled_logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits divided by the temperature, shape (n, c)."""
        logits = np.asarray(self.logits(features), np.float32)
        return logits if self.temperature == 1 else logits / np.float32(self.temperature)

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return probabilities of shape (n, c), rows summing to 1, for features of shape (n, k)."""
        return softmax(self.scaled_logits(features))

    def temperature_scaled(self, temperature: float) -> Self:
        """Return the head with logits divided by a temperature: the same predictions with other confidences."""
        scaled = copy.copy(self)
        object.__setattr__(scaled, "temperature", self.temperature * temperature)
        return scaled


def get_head(name: str) -> type[Head]:
    """Return a head class by name: ``logistic``, ``knn``, ``kernel``, or one of another package (entry point ``fruits.heads``).

    Raises
    ------
    ConfigError
        If there is no such head.
    ExtensionError
        If it comes from another package and is no head.
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


def check_labels(labels: NDArray[np.int64]) -> None:
    """Raise the errors of :meth:`Head.fit` for labels that no head can be fitted to."""
    if not len(labels):
        raise TooFewRowsError("no training photos; expected some for every label")
    if labels.max() == 0:
        raise LabelsError("all training photos have the same label; expected at least two to tell apart")


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return probabilities, rows summing to 1, of logits of shape (n, c)."""
    powers = logits - logits.max(axis=1, keepdims=True)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=1, keepdims=True)
    return np.asarray(powers, np.float32)
