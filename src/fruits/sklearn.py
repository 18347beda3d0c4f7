"""The steps of ``fruits run`` as scikit-learn estimators, for a ``Pipeline`` and a ``GridSearchCV`` of one's own.

:class:`FruitsEmbedder` makes embeddings of photos, :class:`FruitsClassifier` is the PCA and the head behind them. What a run does
around them (validation by groups, calibration, kinds, "not sure") is ``fruits.run``.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from fruits.config import DEFAULT_BACKBONE, Fit, RunConfig
from fruits.embedding.backbone import Embedder, find_backbone
from fruits.embedding.photos import embedding_rows
from fruits.embedding.session import usable_device
from fruits.errors import ConfigError, ImageDecodeError, PhotoTypeError, counted, naming, option
from fruits.learning.heads import LabelsError, get_head
from fruits.learning.moments import Moments
from fruits.learning.pca import PCA
from fruits.photos.reading.inputs import PhotoLike, as_status, is_one

__all__ = ["FruitsClassifier", "FruitsEmbedder"]


class FruitsEmbedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeddings of photos by a pretrained network.

    A photo is anything that :meth:`fruits.Recogniser.predict` takes: a path, bytes, a PIL image, a uint8 array. Nothing is
    learnt: ``fit`` opens the network. What :func:`fruits.run` computes for the same network, size and resize mode is the same.

    Parameters
    ----------
    backbone : str
        Name of an embedded network, or path of an ONNX file.
    size : int, optional
        Side of the network's input in pixels, 8 to 2048; by default the largest that the backbone's card says.
    resize_mode : {"pad", "crop", "squash"}, optional
        How a photo that is not square is fitted; by default what the backbone's card says.
    device : {"auto", "cpu", "cuda", "openvino"}
        What the network is computed on; what does not work here is replaced by the processor.
    on_error : {"raise", "nan"}
        What becomes of photos that cannot be read or decoded: an error that names them, or rows of NaN.

    Attributes
    ----------
    embedding_size_ : int
        d, numbers per embedding.
    size_ : int
        Side of the network's input in pixels.
    device_ : str
        What the network is computed on.
    """

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        *,
        size: int | None = None,
        resize_mode: Fit | None = None,
        device: str = "cpu",
        on_error: Literal["raise", "nan"] = "raise",
    ) -> None:
        self.backbone = backbone
        self.size = size
        self.resize_mode = resize_mode
        self.device = device
        self.on_error = on_error

    def fit(self, X: Any = None, y: Any = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's names
        """Open the network.

        Parameters
        ----------
        X, y : ignored
            Nothing is learnt from photos.

        Raises
        ------
        BackboneError
            If there is no such network, or it cannot be used.
        ConfigError
            If a parameter is impossible.
        """
        if self.on_error not in ("raise", "nan"):
            raise ConfigError(f"{option('on_error', self.on_error)}: expected 'raise' or 'nan'")
        # Checked as the options of a run are, with the same messages.
        RunConfig(
            sources=("photos",), out="results", backbone=self.backbone, size=self.size, resize_mode=self.resize_mode,
            device=self.device,
        )  # fmt: skip
        with naming("backbone", self.backbone):
            found = find_backbone(self.backbone)
        self._preprocessing = found.card.preprocessing(self.size, self.resize_mode)
        self._network = found.prepared(self._preprocessing)
        self.device_ = usable_device(self.device)[0]
        self._embedder: Embedder | None = Embedder(self._network, self.device_)
        self.size_ = self._preprocessing.size
        self.embedding_size_ = found.card.embedding_size
        return self

    def transform(self, X: Iterable[PhotoLike]) -> NDArray[np.float32]:  # noqa: N803
        """Return the embeddings of photos.

        Parameters
        ----------
        X : iterable of photo
            A list, an array of shape (n, height, width, 3), a column of a table, or a table of one column.

        Returns
        -------
        float32 array, shape (n, d)

        Raises
        ------
        ImageDecodeError, StoreError
            Of the first photo that cannot be decoded or read, unless ``on_error`` is ``nan``.
        PhotoTypeError
            If X is a single photo, or something in it is none of the things that a photo can be.
        """
        if is_one(X):
            raise PhotoTypeError(
                f"{type(X).__name__} given; expected several photos: a list, or an array of shape (n, height, width, 3)"
            )
        if not self.__sklearn_is_fitted__():
            self.fit()
        if self._embedder is None:  # it came through a pickle, which no open network does
            self._embedder = Embedder(self._network, self.device_)
        rows, faults = embedding_rows(X, self._preprocessing, self._embedder, self.embedding_size_)
        if faults and self.on_error == "raise":
            row, fault = min(faults.items())
            more = f"; nor have {len(faults) - 1:,} more" if len(faults) > 1 else ""
            raise ImageDecodeError(
                getattr(fault, "code", "unreadable"),
                f"photo {row:,} of {len(rows):,} has no embedding ({as_status(fault)[1]}){more}: leave them out, or set "
                "on_error='nan'",
            ) from fault
        return rows

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return ``embedding0`` to ``embedding{d - 1}``, as data frames name their columns."""
        check_is_fitted(self)
        return np.array([f"embedding{number}" for number in range(self.embedding_size_)], object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embedding_size_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | ({"_embedder": None} if "_embedder" in state else {})


class FruitsClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """PCA and a head of ``fruits run``, on embeddings.

    Parameters
    ----------
    components : int, optional
        Keep this many components, k, from 1 to min(n - 1, d). By default as many as ``variance`` says.
    variance : float
        Keep as many components as explain this share of the variance, in (0, 1]; counts where ``components`` is None.
    head : str
        The classifier on the features: ``logistic``, ``knn``, ``kernel``, or one that another package adds.
    setting : float, optional
        The head's hyperparameter, above 0. Of ``logistic`` the inverse strength of the L2 penalty (scikit-learn's ``C``, for
        features scaled to a root mean square length of 1), of ``knn`` the number of neighbours. By default the head's own.

    Attributes
    ----------
    classes_ : array, shape (c,)
        The labels, sorted.
    n_features_in_ : int
        d.
    n_components_ : int
        k.
    mean_ : float64 array, shape (d,)
    components_ : float64 array, shape (k, d)
    explained_variance_ratio_ : float64 array, shape (k,)
    """

    def __init__(
        self,
        *,
        components: int | None = None,
        variance: float = 0.99,
        head: str = "logistic",
        setting: float | None = None,
    ) -> None:
        self.components = components
        self.variance = variance
        self.head = head
        self.setting = setting

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:  # noqa: N803
        """Fit PCA and head.

        Parameters
        ----------
        X : array, shape (n, d)
            Embeddings, finite.
        y : array, shape (n,)
            Labels of two classes or more.

        Raises
        ------
        ConfigError
            If a parameter is impossible: more components than the rows determine, for instance.
        ValueError
            If X or y is of another shape, not finite, or of a single class.

        References
        ----------
        Jolliffe (2002), "Principal Component Analysis". The solver of the head is L-BFGS.
        """
        self._check_parameters()
        with naming("head", self.head):
            head = get_head(self.head)
        rows, y = validate_data(self, X, y, dtype=[np.float32, np.float64], ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise LabelsError(
                f"y holds a single class, {self.classes_.tolist()[0]!r}; expected two or more to tell apart"
            )
        self._pca = PCA.from_moments(Moments.from_rows(rows))
        most = max(1, self._pca.max_components)
        if self.components is not None and self.components > most:
            raise ConfigError(
                f"{option('components', self.components)}: {counted(len(rows), 'row')} of "
                f"{counted(rows.shape[1], 'number')} give {most}; ask for "
                "at most that"
            )
        self.n_components_ = min(self.components or self._pca.components_for(self.variance), most)
        self.mean_, self.components_ = self._pca.mean, self._pca.axes[: self.n_components_]
        self.explained_variance_ratio_ = self._pca.explained_variance_ratio[: self.n_components_]
        setting = head.default if self.setting is None else self.setting
        self._head = head.fit(self._features(rows), numbers, setting=setting)
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """Return the logits.

        Parameters
        ----------
        X : array, shape (n, d)

        Returns
        -------
        float32 array, shape (n, c); of two classes (n,)
            For two, the log odds of the second.
        """
        features = self._checked(X)
        logits = self._head.logits(features)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        """Return probabilities, which are not calibrated: use ``CalibratedClassifierCV``, or ``fruits.run``.

        Parameters
        ----------
        X : array, shape (n, d)

        Returns
        -------
        float32 array, shape (n, c)
            In the order of ``classes_``; rows sum to 1.
        """
        features = self._checked(X)
        return self._head.predict_proba(features)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """Return the most probable label of each row.

        Parameters
        ----------
        X : array, shape (n, d)

        Returns
        -------
        array, shape (n,)
        """
        features = self._checked(X)
        return np.asarray(self.classes_[self._head.logits(features).argmax(axis=1)])

    def _checked(self, X: ArrayLike) -> NDArray[np.float32]:  # noqa: N803
        check_is_fitted(self)
        return self._features(validate_data(self, X, dtype=[np.float32, np.float64], reset=False))

    def _features(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return self._pca.transform(rows, self.n_components_)

    def _check_parameters(self) -> None:
        if self.components is not None and not (isinstance(self.components, Integral) and self.components >= 1):
            raise ConfigError(f"{option('components', self.components)}: expected a whole number from 1 on, or None")
        if not (isinstance(self.variance, Real) and 0 < self.variance <= 1):
            raise ConfigError(
                f"{option('variance', self.variance)}: expected a share above 0 and up to 1, such as 0.99"
            )
        if self.setting is not None and not (isinstance(self.setting, Real) and self.setting > 0):
            raise ConfigError(f"{option('setting', self.setting)}: expected a number above 0")
