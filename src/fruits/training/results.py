"""The Python API of runs: ``fruits.run``, ``fruits.apply`` and ``fruits.open_run``, and a finished run as an object.

The flow itself is in ``pipeline.py``; here its records become typed objects, and its tables Arrow tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fruits.errors import ConfigError, StoreError, command, counted, option
from fruits.monitoring.clock import Progress
from fruits.monitoring.display import shown
from fruits.photos.catalogue.builder import SPLITS
from fruits.recogniser import bundle as bundles
from fruits.recogniser import shipped
from fruits.recogniser.recogniser import Recogniser
from fruits.storage.objects import uri_of
from fruits.storage.outputs.runs import REPORT, find, key_of
from fruits.storage.tables import schemas
from fruits.storage.tables.parquet import read_table
from fruits.training import pipeline
from fruits.training import run_record as records
from fruits.training.options import ApplyOptions, RunOptions, StrPath, as_call, config_of, path_of, paths, plain
from fruits.training.predicting.predictions import Predictions, predictions_of


@dataclass(frozen=True, slots=True)
class Metrics:
    """Scores on test photos, as defined by Spark ML (docs/results.md).

    Attributes
    ----------
    accuracy, top3_accuracy : float
        Share of photos whose label is the most probable, or among the three most probable.
    low, high : float
        95 % interval of the accuracy, over groups of dependent photos.
    too_few_to_say : bool
        Whether fewer than 30 photos were scored; then only the interval is meaningful.
    f1, weighted_precision, weighted_recall : float
        Per label, weighted by the number of photos of the label.
    hamming_loss, log_loss : float
    expected_calibration_error : float, optional
        Mean distance between stated probability and accuracy, 15 bins; None for fewer than 30 photos.
    by_label : Arrow table
        ``label, train, evaluated, precision, recall, f1``: a row per label; scores are null where no photo was scored.
    """

    accuracy: float
    low: float
    high: float
    too_few_to_say: bool
    top3_accuracy: float
    f1: float
    weighted_precision: float
    weighted_recall: float
    hamming_loss: float
    log_loss: float
    expected_calibration_error: float | None
    by_label: pa.Table = field(repr=False, compare=False)

    def to_arrow(self) -> pa.Table:
        """Return a table of ``metric`` and ``value``, without the labels."""
        names = [name for name in self.__slots__ if name not in ("by_label", "too_few_to_say")]
        return pa.table({"metric": names, "value": pa.array([getattr(self, name) for name in names], pa.float64())})

    def to_pandas(self) -> Any:
        """Return :meth:`to_arrow` as a pandas data frame; needs pandas."""
        return self.to_arrow().to_pandas()


@dataclass(frozen=True, slots=True)
class Run:
    """The results of a finished run. Created by :func:`run` or :func:`open_run`; tables are read on demand.

    Attributes
    ----------
    out : str
        Location of the results: a folder, or ``s3://bucket/prefix``.
    folder : str
        Location of the files of this run, in ``out``. Later runs have folders of their own, and leave it as it is.
    identity : str
        Hash of everything that determines what was fitted.
    photos, ok, rejected, failed : int
        photos = ok + rejected + failed. Rejected: cannot be decoded. Failed: a retry may work.
    computed, reused : int
        Embeddings computed by this run, or reused.
    labels : tuple of str
        Every label of the photos, sorted.
    backbone : str
        Name of the network.
    embedding_size : int
        d.
    components : int
        k.
    explained_variance : float
        Share of the variance that the k components explain.
    evaluated_split : str, optional
        The split that was scored; None if there were no photos to score on.
    evaluated_photos : int
        Number of scored photos.
    metrics : Metrics, optional
        None if there were no photos to score on.
    leakage : float, optional
        Share of the scored photos that may be recognised from memory, because similar photos were learnt; None if not measured.
    warnings : tuple of str
        Warnings about the photos.
    seconds : float
        Total time.
    up_to_date : bool
        Whether nothing has changed since the previous run, so that nothing was fitted.
    """

    out: str
    folder: str
    identity: str
    photos: int
    ok: int
    rejected: int
    failed: int
    computed: int
    reused: int
    labels: tuple[str, ...] = field(repr=False)
    backbone: str
    embedding_size: int
    components: int
    explained_variance: float
    evaluated_split: str | None
    evaluated_photos: int
    metrics: Metrics | None
    leakage: float | None
    warnings: tuple[str, ...]
    seconds: float
    up_to_date: bool

    @classmethod
    def _of(cls, record: Mapping[str, Any], out: str, folder: str) -> Run:
        """Return the run for a record."""
        evaluated = record["evaluated"] or {}
        return cls(
            out=out,
            folder=folder,
            **{name: record[name] for name in _SAME},
            labels=tuple(sorted(row["label"] for row in record["per_label"])),
            backbone=record["backbone"]["name"],
            evaluated_split=evaluated.get("split"),
            evaluated_photos=evaluated.get("photos", 0),
            metrics=_metrics(record) if record["metrics"] else None,
            leakage=(record.get("leakage") or {}).get("share"),
            warnings=tuple(record["warnings"]),
            seconds=float(record["seconds"]["total"]),
            up_to_date=bool(record.get("up_to_date", False)),
        )

    @property
    def report(self) -> str:
        """Location of the report, one HTML file."""
        return uri_of(self.folder, REPORT)

    def recogniser(self) -> Recogniser:
        """Load the trained recogniser.

        Raises
        ------
        BundleError
            If the bundle is missing or was changed.
        """
        return Recogniser(bundles.load(self.folder))

    def features(self) -> pa.Table:
        """Return the features: ``uri, label, split, source, features``, a row per photo that is ok, sorted by uri.

        Returns
        -------
        Arrow table
            ``features`` is a list of k float32.

        Raises
        ------
        StoreError
            If they are not there, or of another run.
        """
        return self._table("features.parquet")

    def catalogue(self) -> pa.Table:
        """Return the photos of the run: ``uri, label, split, size_bytes, version, source, group, manifest_source``.

        Raises
        ------
        StoreError
            If they are not there.
        """
        return self._table("catalogue.parquet")

    def predictions(self, split: str | None = None) -> pa.Table:
        """Return the answers of the recogniser for the photos of the run, with their labels.

        Answers on training photos are too optimistic; ``split="test"`` selects the scored photos. Advice on the photos is left
        out, as it needs their pixels.

        Parameters
        ----------
        split : str, optional
            ``train``, ``val`` or ``test``; by default all.

        Returns
        -------
        Arrow table
            A row per photo that is ok, in the order of :meth:`features`: ``uri, label, split``, then ``outcome, kind, variety``,
            names, ``probability, kinds, kind_probabilities, labels, probabilities, ood_score`` as ``fruits apply`` writes them.

        Raises
        ------
        StoreError, BundleError
            If features or recogniser are missing, or of another run.
        """
        if split not in (None, *SPLITS):
            raise ConfigError(f"{option('split', split)}: expected one of {', '.join(SPLITS)}")
        table, bundle = self.features(), bundles.load(self.folder)
        if bundle.manifest["about"].get("identity") != self.identity:
            raise StoreError(f"the recogniser in '{self.folder}' is of another run; open the results again")
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        vectors = table["features"].combine_chunks().values.to_numpy(zero_copy_only=False)
        features = np.ascontiguousarray(vectors.reshape(table.num_rows, bundle.components), np.float32)
        answers = bundle.answers_by_features(features) if table.num_rows else []
        schema = pa.schema(
            [column for column in schemas.predictions(bundle.components) if column.name not in _LEFT_OUT]
        )
        said = pa.Table.from_pylist([answer.as_row() for answer in answers], schema=schema)
        given = [table.column(name) for name in ("uri", "label", "split")]
        return pa.table([*given, *said.columns], names=["uri", "label", "split", *schema.names])

    def __str__(self) -> str:
        scored = ""
        if self.metrics:
            share = "too few to say" if self.metrics.too_few_to_say else f"{self.metrics.accuracy:.1%}"
            scored = (
                f"; accuracy {share} ({self.metrics.low:.1%} to {self.metrics.high:.1%}) on "
                f"{counted(self.evaluated_photos, f'{self.evaluated_split} photo')}"
            )
        bad = self.rejected + self.failed
        return (
            f"{counted(self.photos, 'photo')} of "
            f"{counted(len(self.labels), 'label')}{f', {bad:,} unusable' if bad else ''}; {self.components} of "
            f"{counted(self.embedding_size, 'component')}{scored}; results in {self.out}"
        )

    def _table(self, name: str) -> pa.Table:
        data = find(self.folder).objects().read_if_present(name)
        if data is None:
            raise StoreError(f"'{uri_of(self.folder, name)}' is not there; run {command('run')} again: it puts it back")
        try:
            return read_table(data)
        except pa.ArrowException as exc:
            raise StoreError(f"'{uri_of(self.folder, name)}' is damaged ({exc}); run {command('run')} again") from exc


#: Attributes with the same name in the record.
_SAME: Final = (
    "identity", "photos", "ok", "rejected", "failed", "computed", "reused", "embedding_size", "components", "explained_variance",
)  # fmt: skip
#: Columns of the table of predictions that are left out for a run.
_LEFT_OUT: Final = ("uri", "status", "error", "advice", "features")


def run(
    photos: StrPath | Iterable[StrPath],
    *,
    to: StrPath,
    progress: Progress | bool | None = None,
    **options: Unpack[RunOptions],
) -> Run:
    """Train a recogniser on labelled photos and evaluate it, as ``fruits run`` does.

    A second run on the same output computes only what is new.

    Parameters
    ----------
    photos : path, or iterable of path
        Folders of photos (``PHOTOS/<label>/photo.jpg``), packs or manifests (``.csv``, ``.parquet``), on a disk or as
        ``s3://bucket/prefix``.
    to : path
        Folder for the results, or ``s3://bucket/prefix``; created if absent, otherwise continued.
    progress : Progress or bool, optional
        True: on stderr; False: nowhere; by default on stderr if that is a terminal.
    **options
        Fields of :class:`fruits.config.RunConfig`, such as ``backbone="fruits-small"`` or ``sample=100``.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError
        If an option is invalid, or two options contradict each other.
    FruitsError
        Any other subclass; the message says what to do. Embeddings computed so far are kept.

    Examples
    --------
    >>> fruits.run("photos", to="results").metrics.accuracy  # doctest: +SKIP
    0.97
    """
    sources, out = paths(photos), path_of(to, "to")
    config = config_of(sources, out, options)
    with shown(progress) as display:
        record = pipeline.run(config, progress=display, command=as_call("run", sources, out, options))
    return Run._of(record, out, uri_of(out, key_of(record["run"])))


def open_run(path: StrPath) -> Run:
    """Open the results of a finished run.

    Parameters
    ----------
    path : path
        Output of ``fruits run`` or :func:`run`, for its current run: a folder, or ``s3://bucket/prefix``. For another run,
        ``OUT/runs/ID``.

    Returns
    -------
    Run

    Raises
    ------
    StoreError
        If there is no finished run, or another version of fruits made it.
    """
    out = path_of(path, "path")
    place = find(out)
    return Run._of(records.read_record(place), place.out, place.folder)


def apply(
    recogniser: StrPath | Run | None,
    photos: StrPath | Iterable[StrPath],
    *,
    to: StrPath,
    progress: Progress | bool | None = None,
    **options: Unpack[ApplyOptions],
) -> Predictions:
    """Recognise photos in batch, on all cores or on Spark, as ``fruits apply`` does.

    A second call with the same output computes only what is new. For a few photos, :meth:`Recogniser.predict` is simpler.

    Parameters
    ----------
    recogniser : path, Run or None
        Results of a run, or a bundle; None for the recogniser that ships with the package.
    photos : path, or iterable of path
        Folders in any layout, manifests with a column ``uri``, packs, or single photos.
    to : path
        Folder for ``predictions.parquet`` and the data needed to resume, or ``s3://bucket/prefix``.
    progress : Progress or bool, optional
        As for :func:`run`.
    **options
        See :class:`ApplyOptions`.

    Returns
    -------
    Predictions

    Raises
    ------
    FruitsError
        A subclass that says what to do. Photos that cannot be decoded are rows with a status, never an error.
    """
    given = recogniser.folder if isinstance(recogniser, Run) else recogniser
    bundle = shipped.path() if given is None else path_of(given, "recogniser")
    with shown(progress) as display:
        done = pipeline.apply(bundle, paths(photos), path_of(to, "to"), progress=display, **plain(options))
    return predictions_of(done)


def _metrics(record: Mapping[str, Any]) -> Metrics:
    values = record["metrics"]
    names = {
        "accuracy": "accuracy",
        "top3_accuracy": "top3Accuracy",
        "f1": "f1",
        "weighted_precision": "weightedPrecision",
        "weighted_recall": "weightedRecall",
        "hamming_loss": "hammingLoss",
        "log_loss": "logLoss",
        "expected_calibration_error": "expectedCalibrationError",
    }
    rows = [
        {
            "f1" if name == "fMeasure" else name: row[name]
            for name in ("label", "train", "evaluated", "precision", "recall", "fMeasure")
        }
        for row in record["per_label"]
    ]
    low, high = values["accuracyInterval"]
    return Metrics(
        **{ours: values[theirs] for ours, theirs in names.items()},
        low=low,
        high=high,
        too_few_to_say=record["evaluated"]["too_few_to_say"],
        by_label=pa.Table.from_pylist(rows, schema=_BY_LABEL),
    )


_BY_LABEL: Final = pa.schema(
    [
        ("label", pa.string()), ("train", pa.int64()), ("evaluated", pa.int64()), ("precision", pa.float64()),
        ("recall", pa.float64()), ("f1", pa.float64()),
    ]
)  # fmt: skip
