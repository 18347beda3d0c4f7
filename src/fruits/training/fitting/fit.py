"""Fitting a recogniser on committed embeddings: moments, PCA, features, hyperparameters and head.

Reads the files of an inventory, a chunk at a time, and passes plain arrays to ``learning``. Only training rows are fitted; rows
of other splits are projected and scored. The head gets rows in the catalogue's order. Moments are merged chunk by chunk, so the
order in which photos came to the catalogue affects at most the last digits of float64, and the order of commits nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fruits.engines import Engine
from fruits.errors import ConfigError, counted, option
from fruits.learning import calibration as confidence
from fruits.learning import validation
from fruits.learning.drift import Drift
from fruits.learning.heads import MAX_ROWS, Head, softmax
from fruits.learning.heads.logistic import LogisticHead, scale_of
from fruits.learning.moments import Moments
from fruits.learning.neighbours import FeatureRows
from fruits.learning.out_of_distribution import OodDetector
from fruits.learning.pca import PCA
from fruits.photos.decoding.quality import Limits
from fruits.storage.embeddings.inventory import FileRows, Inventory
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.training.fitting.features import project_all
from fruits.training.fitting.projection import ProjectStage, shards_of
from fruits.training.fitting.training_set import TrainingSet, in_chunks, vectors_of

#: k and the setting of the head are chosen on at most this many photos: their ranking is stable with far fewer.
_ROWS_FOR_CHOOSING: Final = 50_000
#: Maximum k tried in validation.
_MOST_VARIANCE: Final = 0.9999
_MOST_COMPONENTS: Final = 512
#: Minimum share of the variance that the components explain, unless the user sets k.
_LEAST_VARIANCE: Final = 0.95
#: Share of the variance kept if the backbone was trained on the training photos, which makes validation on them meaningless.
_SEEN_VARIANCE: Final = 0.99
#: If at least this share of the labels has photos of several sources, whole sources are held out instead of groups.
_SEVERAL_SOURCES: Final = 0.5
#: If the backbone was trained on at least this share of the training photos, validation uses only other photos.
_SEEN: Final = 0.01


@dataclass(frozen=True, slots=True)
class ValidationSplit:
    """The training rows used to choose hyperparameters, and their validation split.

    Attributes
    ----------
    train : int64 array
        Catalogue rows.
    held_out : bool array, shape of train
        Validation rows among them; the others are learnt.
    all_held_out : int64 array
        Catalogue rows of all validation groups, including those that are not in ``train``.
    trusted : bool
        Whether the validation rows are meaningful: False if the backbone was trained on them.
    """

    train: NDArray[np.int64]
    held_out: NDArray[np.bool_]
    all_held_out: NDArray[np.int64]
    trusted: bool = True

    @classmethod
    def of(cls, training_set: TrainingSet, seed: int, seen: NDArray[np.bool_] | None = None) -> ValidationSplit:
        """Hold out whole sources of training rows, or else whole groups; see :func:`fruits.learning.validation.split_by_group`.

        Sources are held out if a manifest names them and half of the labels have several, because new photos come from sources
        that were not learnt.

        Parameters
        ----------
        training_set : TrainingSet
        seed : int
        seen : bool array, shape (n,), optional
            Catalogue rows that the backbone was trained on. It separates labels of these better than of any other photo, so
            only groups without them are held out; if there are too few such groups, the validation is not trusted.
        """
        train = training_set.train_rows
        held_out = validation.split_by_source(training_set.label[train], training_set.named_source[train], seed)
        if len(np.unique(training_set.label[train[held_out]])) < _SEVERAL_SOURCES * len(
            np.unique(training_set.label[train])
        ):
            held_out = validation.split_by_group(training_set.label[train], training_set.group[train], seed)
        trusted = True
        if seen is not None and seen[train].sum() >= max(1, _SEEN * len(train)):
            unseen = ~np.isin(training_set.group[train], np.unique(training_set.group[train[seen[train]]]))
            held_out = np.zeros(len(train), bool)
            held_out[unseen] = validation.split_by_group(
                training_set.label[train[unseen]], training_set.group[train[unseen]], seed
            )
            asked = np.unique(training_set.label[train[held_out]])
            trusted = 2 * len(asked) >= len(np.unique(training_set.label[train]))
            if not trusted:
                held_out = validation.split_by_group(training_set.label[train], training_set.group[train], seed)
        used = np.arange(len(train))
        if len(train) > _ROWS_FOR_CHOOSING:
            used = np.sort(np.random.default_rng(seed).choice(used, _ROWS_FOR_CHOOSING, replace=False))
            # The random split may leave no photo of a rare label to learn; such labels are left out of validation.
            learnt = np.unique(training_set.label[train[used[~held_out[used]]]])
            used = used[~held_out[used] | np.isin(training_set.label[train[used]], learnt)]
        return cls(train[used], held_out[used], train[held_out], trusted)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen hyperparameters, how they were chosen, and all trials.

    Attributes
    ----------
    head : type of Head
    setting : float
        Hyperparameter of the head, such as its regularisation.
    held_out : HeldOutAnswers, optional
        Answers on the validation photos; None without validation photos.
    fitted : LogisticHead, optional
        The head that gave these answers, for features of all training rows: the final fit begins with it, if it is of this kind.
    """

    components: int
    chosen_by: str
    head: type[Head]
    setting: float
    component_trials: list[validation.Trial]
    setting_trials: list[validation.Trial]
    groups_held_out: int
    held_out: HeldOutAnswers | None
    fitted: LogisticHead | None = None


@dataclass(frozen=True, slots=True)
class HeldOutAnswers:
    """Answers on the validation photos, with the chosen k and setting.

    Attributes
    ----------
    answers : Answers
    temperature : float
        Temperature that calibrates these answers.
    ood_detector : OodDetector
        Fitted on the other photos, scaled on these.
    features : float32 array, shape (m, k)
    """

    answers: validation.Answers
    temperature: float
    ood_detector: OodDetector
    features: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Calibrated probabilities, shape (m, c)."""
        return softmax(self.answers.logits / np.float32(self.temperature))


@dataclass(frozen=True, slots=True)
class Recogniser:
    """The model fitted on all training photos.

    Attributes
    ----------
    head : Head
        Calibrated head.
    labels : list of str
        Labels of the head.
    training_photos : int
        Number of photos that the head was fitted on.
    ood_detector : OodDetector
    """

    head: Head
    labels: list[str]
    training_photos: int
    ood_detector: OodDetector


def training_moments(
    engine: Engine, stored: EmbeddingTable, inventory: Inventory, training_set: TrainingSet, split: ValidationSplit
) -> tuple[Moments, Moments]:
    """Return the moments of the training rows that are learnt during validation, and of the validation rows.

    Merged, they are the moments of all training rows.
    """
    held_out = np.zeros(len(training_set.ok), bool)
    held_out[split.all_held_out] = True
    learnt = training_set.of_split("train") & training_set.ok & ~held_out
    marks = learnt + 2 * held_out.astype(np.int8)
    shards = ([_marked(entry, marks) for entry in group] for group in in_chunks(inventory))
    both = _from_batch(engine.reduce_batches(shards, PartialMoments(stored), merge_moments))
    return both[0], both[1]


#: A file, and the catalogue row and the mark of each of its rows.
Marked = tuple[File, NDArray[np.int64], NDArray[np.int8]]


@dataclass(frozen=True, slots=True)
class PartialMoments:
    """Picklable function that reads some files and computes their moments.

    Parameters
    ----------
    stored : EmbeddingTable
        Table of the embeddings.
    """

    stored: EmbeddingTable

    def __call__(self, group: list[Marked]) -> pa.RecordBatch:
        """Return the moments of the rows marked 1 and of those marked 2.

        Rows are added in the catalogue's order, so that it does not matter in which file a row is.
        """
        vectors = [vectors_of(self.stored.read(file, ["embedding"]))[marks > 0] for file, _, marks in group]
        order = np.argsort(np.concatenate([places[marks > 0] for _, places, marks in group]))
        rows = np.concatenate(vectors)[order]
        marks = np.concatenate([marks[marks > 0] for _, _, marks in group])[order]
        return _to_batch([Moments.from_rows(rows[marks == 1]), Moments.from_rows(rows[marks == 2])])


def merge_moments(left: pa.RecordBatch, right: pa.RecordBatch) -> pa.RecordBatch:
    """Merge two results of :class:`PartialMoments`."""
    pairs = zip(_from_batch(left), _from_batch(right), strict=True)
    return _to_batch([one.merge(other) for one, other in pairs])


def _marked(entry: FileRows, marks: NDArray[np.int8]) -> Marked:
    rows = entry.catalogue_rows
    return entry.file, rows, np.where(rows >= 0, marks[rows], 0).astype(np.int8)


def choose(
    engine: Engine,
    stored: EmbeddingTable,
    inventory: Inventory,
    training_set: TrainingSet,
    split: ValidationSplit,
    *,
    pca: PCA,
    blind: PCA,
    variance: float | None,
    components: int | None,
    weights: NDArray[np.float64] | None = None,
    head: type[Head] = LogisticHead,
) -> Choice:
    """Choose k and the setting of the head.

    Parameters
    ----------
    pca : PCA
        PCA of all training rows.
    blind : PCA
        PCA of the training rows without the validation rows: the projection used in validation is fitted without them.
    variance, components : optional
        The user's choice of k.
    weights : float64 array, shape (n,), optional
        Weight of each catalogue row.
    head : type of Head

    Raises
    ------
    ConfigError
        If more components are requested than the rows determine.
    """
    if components is not None and components > pca.max_components:
        raise ConfigError(
            f"{option('components', components)}: {counted(pca.count, 'training photo')} and embeddings of "
            f"{counted(len(pca.mean), 'number')} give "
            f"{pca.max_components}; ask for at most that"
        )
    if components is not None:
        k, chosen_by = components, "components"
    elif variance is not None:
        k, chosen_by = pca.components_for(variance), "variance"
    elif not split.trusted:
        k, chosen_by = pca.components_for(_SEEN_VARIANCE), "seen"
    else:
        most = max(_MOST_COMPONENTS, pca.components_for(_LEAST_VARIANCE))
        k, chosen_by = min(pca.components_for(_MOST_VARIANCE), most), "validation"
    k_blind = min(k, blind.max_components)
    wanted = np.zeros(len(training_set.ok), bool)
    wanted[split.train] = True
    features = project_all(engine, stored, inventory, blind, k_blind, wanted)[np.arange(len(split.train))]
    held_groups = len(np.unique(training_set.group[split.train][split.held_out]))
    own_weights = None if weights is None else weights[split.train]
    labels, held = training_set.label[split.train], split.held_out
    selection = validation.ModelSelection(features, labels, training_set.group[split.train], held, own_weights, head)
    component_trials: list[validation.Trial] = []
    if chosen_by == "validation":
        k, component_trials = selection.components(min(k_blind, pca.components_for(_LEAST_VARIANCE)))
        k_blind = k
    setting, setting_trials, answers = selection.setting(k_blind, trusted=split.trusted)
    held_out = fitted = None
    if answers is not None:
        found, axes = selection.fitted(k_blind, setting), blind.axes[:k_blind]
        if type(found) is LogisticHead:  # its features are, nearly, these of the final PCA rotated and shifted
            fitted = found.of_other_features(axes @ pca.axes[:k].T, axes @ (pca.mean - blind.mean))
        features = np.ascontiguousarray(features[:, :k_blind])
        temperature = confidence.temperature(answers.logits, answers.truth, own_scale=head.own_scale)
        ood_detector = OodDetector.of(features[~held], np.searchsorted(answers.labels, labels[~held]))
        probabilities = softmax(answers.logits / np.float32(temperature))
        ood_detector = ood_detector.scaled(features[held], probabilities)
        held_out = HeldOutAnswers(answers, temperature, ood_detector, features[held])
    return Choice(k, chosen_by, head, setting, component_trials, setting_trials, held_groups, held_out, fitted)


#: Function that fits a head, given the label index of each catalogue row (-1: left out), their weights, and 1 / root mean
#: square length of the features.
FitHead = Callable[[NDArray[np.int64], NDArray[np.float64] | None, float], Head]


def head_by_engine(
    engine: Engine, stored: EmbeddingTable, inventory: Inventory, pca: PCA, choice: Choice
) -> FitHead | None:
    """Return a function that fits a logistic head on the engine, on any number of photos; None if the engine cannot."""
    fit = getattr(engine, "fit_head", None)
    if fit is None or choice.head is not LogisticHead:
        return None
    axes = pca.axes[: choice.components].astype(np.float32)
    stage = ProjectStage(stored, pca.mean.astype(np.float32), axes)

    def fit_head(labels: NDArray[np.int64], weights: NDArray[np.float64] | None, scale: float) -> Head:
        slopes, intercepts = fit(
            shards_of(inventory, labels, weights),
            stage,
            labels=int(labels.max()) + 1,
            regularisation=choice.setting,
            scale=scale,
        )
        return LogisticHead(slopes.astype(np.float32), intercepts.astype(np.float32))

    return fit_head


def fit_recogniser(
    features: FeatureRows,
    training_set: TrainingSet,
    choice: Choice,
    seed: int,
    weights: NDArray[np.float64] | None = None,
    fit_on_engine: FitHead | None = None,
) -> Recogniser:
    """Fit the head and the out-of-distribution score on all training rows; calibrate on the validation photos.

    With more than ``MAX_ROWS`` training photos, the head is fitted on a random sample of that size, unless an engine can
    fit it on all of them.

    Parameters
    ----------
    features : Features, shape (number of rows that are ok, k)
    weights : float64 array, shape (n,), optional
        Weight of each catalogue row.
    fit_on_engine : callable, optional
        Fits the head on the cluster.
    """
    labels, train = training_set.label[training_set.ok], np.flatnonzero(training_set.of_split("train")[training_set.ok])
    photos = len(train)
    if len(train) > MAX_ROWS:
        chosen = np.random.default_rng(seed).choice(train, MAX_ROWS, replace=False)
        # Add one photo of each label that the sample misses.
        counts, sampled = (np.bincount(labels[some], minlength=len(training_set.names)) for some in (train, chosen))
        missing = np.flatnonzero((counts > 0) & (sampled == 0)).tolist()
        train = np.union1d(chosen, [train[np.argmax(labels[train] == label)] for label in missing]).astype(np.int64)
    learnt, numbers = np.unique(labels[train], return_inverse=True)
    del labels  # four bytes per photo that the fit need not find in memory
    if fit_on_engine is not None and photos > len(train):
        number_of = np.full(len(training_set.ok), -1, np.int64)
        number_of[training_set.train_rows] = np.searchsorted(learnt, training_set.label[training_set.train_rows])
        head = fit_on_engine(number_of, weights, scale_of(features[train]))
    else:
        photos = len(train)
        own_weights = None if weights is None else weights[training_set.ok][train]
        begin = {}
        if choice.fitted is not None and choice.held_out is not None:
            known = choice.fitted.of_labels(np.searchsorted(learnt, choice.held_out.answers.labels), len(learnt))
            begin = {"start": {choice.setting: known}}
        head = choice.head.fit(features[train], numbers, setting=choice.setting, weights=own_weights, **begin)
    ood_detector = OodDetector.of(features[train], numbers)
    if held_out := choice.held_out:
        head = head.temperature_scaled(held_out.temperature)
        ood_detector = ood_detector.on_the_scale_of(held_out.ood_detector)
    else:
        if not head.own_scale:  # without validation photos, calibrate on the training photos
            head = head.temperature_scaled(
                confidence.temperature(head.logits(features[train]), numbers, own_scale=False)
            )
        ood_detector = ood_detector.scaled(features[train], head.predict_proba(features[train]))
    return Recogniser(head, [training_set.names[label] for label in learnt], photos, ood_detector)


def drift(choice: Choice, recogniser: Recogniser, features: FeatureRows, training_set: TrainingSet, seed: int) -> Drift:
    """Return the reference distribution of the training photos, with which a service measures drift.

    With more than ``MAX_ROWS`` training photos, that of a random sample of that size.

    Parameters
    ----------
    features : Features, shape (number of rows that are ok, k)
    """
    trained = features[_sample(np.flatnonzero(training_set.of_split("train")[training_set.ok]), seed)]
    if choice.held_out:
        ood_score = choice.held_out.ood_detector.ood_score(choice.held_out.features, choice.held_out.probabilities)
    else:
        ood_score = recogniser.ood_detector.ood_score(trained, recogniser.head.predict_proba(trained))
    return Drift.of(trained, ood_score)


def photo_limits(
    stored: EmbeddingTable, inventory: Inventory, training_set: TrainingSet, size: int, seed: int
) -> Limits:
    """Return the limits for dark, blurred and small photos, derived from the training photos, or a sample of ``MAX_ROWS``.

    Parameters
    ----------
    size : int
        Side of the network's input.
    """
    learnt = np.zeros(len(training_set.ok), bool)
    learnt[_sample(training_set.train_rows, seed)] = True
    found: list[NDArray[np.float32]] = []
    for entry in inventory.file_rows:
        wanted = entry.catalogue_rows >= 0
        wanted[wanted] = learnt[entry.catalogue_rows[wanted]]
        if wanted.any():
            table = stored.read_keys(entry.file, ["brightness", "sharpness"])
            found.append(np.stack([table[name].to_numpy()[wanted] for name in table.column_names]))
    brightness, sharpness = np.concatenate(found, axis=1)
    return Limits.of(brightness, sharpness, size)


def _sample(rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return at most ``MAX_ROWS`` of some rows, in order; which ones depends on their number and the seed only."""
    return rows if len(rows) <= MAX_ROWS else np.sort(np.random.default_rng(seed).choice(rows, MAX_ROWS, replace=False))


def _to_batch(pair: list[Moments]) -> pa.RecordBatch:
    """Return moments as an Arrow record batch, the format that engines transport."""
    columns = {
        "count": [moments.count for moments in pair],
        "mean": [moments.mean.tobytes() for moments in pair],
        "scatter": [moments.scatter.tobytes() for moments in pair],
    }
    return pa.RecordBatch.from_pydict(columns)


def _from_batch(batch: pa.RecordBatch) -> list[Moments]:
    pair = []
    for row in batch.to_pylist():
        mean = np.frombuffer(row["mean"])
        pair.append(Moments(row["count"], mean, np.frombuffer(row["scatter"]).reshape(len(mean), len(mean))))
    return pair
