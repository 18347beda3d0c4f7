"""The Python API of assessments: ``fruits.evaluate`` and ``fruits.audit``, and their return types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypedDict, Unpack

import pyarrow as pa

from fruits.assessment import audit as audits
from fruits.assessment import evaluation as evaluations
from fruits.assessment.printed import as_text
from fruits.config import Fit
from fruits.errors import counted
from fruits.monitoring.clock import Progress
from fruits.monitoring.display import shown
from fruits.storage.objects import Objects, uri_of
from fruits.storage.outputs.runs import REPORT, key_of
from fruits.storage.tables.parquet import read_table
from fruits.training.options import StrPath, as_call, config_of, path_of, paths
from fruits.training.results import Run


@dataclass(frozen=True, slots=True)
class SourceScore:
    """Accuracy of kinds on one source, for a head trained on the other sources.

    Attributes
    ----------
    source : str
    seen : bool
        Whether the backbone was trained on photos of this source, which makes any score meaningless: there is none then.
    photos, left_out : int
        Number of photos scored, and of those left out because their kind was not learnt. Of a seen source, all its photos and 0.
    kind_accuracy, kind_low, kind_high : float, optional
        Share of photos whose kind is right, and its 95 % interval over groups; None if nothing could be scored.
    kind_top3_accuracy, kind_top3_low, kind_top3_high : float, optional
        Share of photos whose kind is among the three most probable, and its 95 % interval over groups. Evaluations of earlier
        versions have no such interval: None.
    too_few_to_say : bool
        Whether fewer than 30 photos were scored; then only the intervals are meaningful.
    """

    source: str
    seen: bool
    photos: int
    left_out: int
    kind_accuracy: float | None
    kind_low: float | None
    kind_high: float | None
    kind_top3_accuracy: float | None
    kind_top3_low: float | None
    kind_top3_high: float | None
    too_few_to_say: bool


@dataclass(frozen=True, slots=True)
class Protocol:
    """Result of one protocol. Shares are from 0 to 1; None if nothing could be scored.

    Of the protocol ``source``, counts and shares are those of the sources that the backbone has not seen.

    Attributes
    ----------
    protocol : {"official", "source", "axis", "arc", "variety", "groups"}
        What was held out; docs/evaluation.md explains each.
    photos, left_out : int
        Number of test photos, and of those left out because their label or kind was not learnt.
    folds, groups : int
        Number of heads fitted, and of groups of dependent photos.
    grouped_by : str
    accuracy, low, high : float, optional
        Share of photos whose label is right, and its 95 % interval over groups.
    kind_accuracy, kind_low, kind_high : float, optional
        The same for kinds.
    kind_top3_accuracy, kind_top3_low, kind_top3_high : float, optional
        Share of photos whose kind is among the three most probable, and its interval. Evaluations of earlier versions have no
        such interval: None.
    leakage : float
        Share of the photos with a near-duplicate among the training photos.
    seen : bool
        Whether the backbone was trained on these photos, which makes any score meaningless; of the protocol ``source``, on
        photos of every source.
    too_few_to_say : bool
        Whether fewer than 30 photos were scored; then only the intervals are meaningful.
    sources : tuple of SourceScore
        Of the protocol ``source``: one per source; else empty.
    """

    protocol: str
    photos: int
    left_out: int
    folds: int
    groups: int
    grouped_by: str
    accuracy: float | None
    low: float | None
    high: float | None
    kind_accuracy: float | None
    kind_low: float | None
    kind_high: float | None
    kind_top3_accuracy: float | None
    kind_top3_low: float | None
    kind_top3_high: float | None
    leakage: float
    seen: bool
    too_few_to_say: bool
    sources: tuple[SourceScore, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluation of a recogniser. ``print(evaluation)`` prints what ``fruits evaluate`` prints.

    Attributes
    ----------
    out : str
        The evaluated results.
    folder : str
        Location of the files of the evaluated run, in ``out``.
    identity : str
        Identity of their run.
    sources : tuple of str
        Where the photos came from.
    photos, available : int
        Number of photos used, and of those that could have been: of more than 50,000, whole groups are left out.
    backbone : str
    size, components : int
    head : str
        Name of the fitted classifier, as in the run.
    protocols : tuple of Protocol
        The protocols that apply.
    not_applicable : tuple of (str, str)
        The other protocols, why each was not possible, and what was found.
    seen_share : float, optional
        Share of the photos that the backbone was trained on; None if its card does not list them.
    near_duplicate_distance, near_duplicate_chance : float
        Distance within which photos count as near-duplicates, and the share of photos that are so near to one of another label.
    seconds : float
    """

    out: str
    folder: str
    identity: str
    sources: tuple[str, ...]
    photos: int
    available: int
    backbone: str
    size: int
    components: int
    head: str
    protocols: tuple[Protocol, ...]
    not_applicable: tuple[tuple[str, str], ...]
    seen_share: float | None
    near_duplicate_distance: float
    near_duplicate_chance: float
    seconds: float

    @property
    def report(self) -> str:
        """Location of the report, one HTML file, which now includes this evaluation."""
        return uri_of(self.folder, REPORT)

    def table(self) -> pa.Table:
        """Return the protocols as an Arrow table, one row each, one column per attribute of
        :class:`Protocol` except ``sources``.
        """
        rows = [asdict(protocol) for protocol in self.protocols]
        names = [column.name for column in fields(Protocol) if column.name != "sources"]
        return pa.table({name: [row[name] for row in rows] for name in names})

    def to_pandas(self) -> Any:
        """Return :meth:`table` as a pandas data frame; needs pandas."""
        return self.table().to_pandas()

    def __str__(self) -> str:
        return as_text([self])


@dataclass(frozen=True, slots=True)
class FindingCount:
    """Number of findings of one type in an audit.

    Attributes
    ----------
    sort : str
        ``exact_duplicate``, ``near_duplicate``, ``label``, ``blurred``, ``dark``, ``odd_size`` or ``unreadable``.
    photos : int
    groups, across_splits, across_labels : int
        For duplicates: number of groups, and of those with photos of several splits, or of several labels; else 0.
    """

    sort: str
    photos: int
    groups: int = 0
    across_splits: int = 0
    across_labels: int = 0

    def __str__(self) -> str:
        grouped = (
            f" in {counted(self.groups, 'group')}, {self.across_splits:,} of them across splits" if self.groups else ""
        )
        return f"{counted(self.photos, 'photo')}{grouped}"


@dataclass(frozen=True, slots=True)
class Audit:
    """Result of an audit: suspected problems of photos, to be checked by the user.

    Attributes
    ----------
    out : str
        Location of the page and the tables.
    photos, ok, rejected, failed : int
        photos = ok + rejected + failed.
    labels : int
        Number of labels.
    flagged : int
        Number of flagged photos; near-duplicates count only across labels.
    counts : tuple of FindingCount
        One per type of finding.
    seconds : float
    """

    out: str
    photos: int
    ok: int
    rejected: int
    failed: int
    labels: int
    flagged: int
    counts: tuple[FindingCount, ...]
    seconds: float

    def __str__(self) -> str:
        lines = [f"{f'{one.sort}:'.replace('_', ' '):17}{one}" for one in self.counts]
        told = (
            f"to look at: {self.flagged:,} of {counted(self.photos, 'photo')} (near-duplicates count if their labels "
            f"differ); page in {self.page}, all findings in {uri_of(self.out, 'findings.parquet')}"
        )
        return "\n".join([*lines, told])

    @property
    def page(self) -> str:
        """Location of the page, one HTML file with the flagged photos."""
        return uri_of(self.out, "audit.html")

    def findings(self) -> pa.Table:
        """Return all findings as an Arrow table, one row per photo and type; values that do not apply are null.

        Raises
        ------
        StoreError
            If the table no longer exists.
        """
        return read_table(Objects(self.out).read("findings.parquet"))

    def to_pandas(self) -> Any:
        """Return :meth:`findings` as a pandas data frame; needs pandas."""
        return self.findings().to_pandas()


class AuditOptions(TypedDict, total=False):
    """Options of :func:`audit`: the fields of :class:`fruits.config.RunConfig` that apply to it."""

    backbone: str
    size: int | None
    resize_mode: Fit | None
    workers: int
    only: Sequence[str]
    sample: int | None
    seed: int
    follow_links: bool
    allow_source: Sequence[str]


def evaluate(
    run: StrPath | Run, protocols: str | Sequence[str] = (), *, progress: Progress | bool | None = None
) -> Evaluation:
    """Evaluate a recogniser under strict protocols, as ``fruits evaluate`` does.

    Parameters
    ----------
    run : path or Run
        Results of a run.
    protocols : str or sequence of str
        Of ``official, source, axis, arc, variety, groups``; by default all that apply.
    progress : Progress or bool, optional
        True: on stderr; False: nowhere; by default on stderr if that is a terminal.

    Returns
    -------
    Evaluation
        Also written to ``evaluation.json`` beside the results, and into their report.

    Raises
    ------
    ConfigError
        If a protocol is unknown.
    StoreError
        If there is no finished run, or it has changed since.
    """
    wanted = [protocols] if isinstance(protocols, str) else list(protocols)
    with shown(progress, "fold") as display:
        found = evaluations.evaluate(
            run.folder if isinstance(run, Run) else path_of(run, "run"), wanted, progress=display
        )
    return evaluation_of(found)


def audit(
    photos: StrPath | Sequence[StrPath],
    *,
    to: StrPath,
    progress: Progress | bool | None = None,
    **options: Unpack[AuditOptions],
) -> Audit:
    """Find duplicates, label errors and poor photos, as ``fruits audit`` does.

    Parameters
    ----------
    photos : path, or sequence of path
        As for :func:`fruits.run`.
    to : path
        Folder for the page and the tables, or ``s3://bucket/prefix``.
    progress : Progress or bool, optional
        True: on stderr; False: nowhere; by default on stderr if that is a terminal.
    **options
        See :class:`AuditOptions`.

    Returns
    -------
    Audit

    Raises
    ------
    FruitsError
        A subclass; the message says what to do.
    """
    sources, out = paths(photos), path_of(to, "to")
    config = config_of(sources, out, options, among=AuditOptions.__annotations__)
    with shown(progress) as display:
        record = audits.audit(config, progress=display, command=as_call("audit", sources, out, options))
    return audit_of(record, out)


def evaluation_of(record: Mapping[str, Any]) -> Evaluation:
    """Return the evaluation for the record of :func:`fruits.assessment.evaluation.evaluate`."""
    scores = [column.name for column in fields(SourceScore)]
    measured = [column.name for column in fields(Protocol) if column.name != "sources"]
    return Evaluation(
        **{name: record[name] for name in _SAME},
        folder=uri_of(record["out"], key_of(record["run"])) if record["run"] else record["out"],
        sources=tuple(record["sources"]),
        protocols=tuple(
            Protocol(
                **{name: (_ADDED | row)[name] for name in measured},
                sources=tuple(
                    SourceScore(**{name: (_ADDED | one)[name] for name in scores}) for one in row.get("sources", ())
                ),
            )
            for row in record["protocols"]
        ),
        not_applicable=tuple(
            (row["protocol"], f"{row['reason']} (found: {row['found']})" if row["found"] else row["reason"])
            for row in record["not_applicable"]
        ),
        seen_share=record["seen"]["share"] if record["seen"]["checked"] else None,
        near_duplicate_distance=record["near_duplicates"]["threshold"],
        near_duplicate_chance=record["near_duplicates"]["chance"],
    )


def audit_of(record: Mapping[str, Any], out: str) -> Audit:
    """Return the audit for the record of :func:`fruits.assessment.audit.audit`."""
    counts = tuple(FindingCount(sort, **found) for sort, found in record["counts"].items())
    given = {name: record[name] for name in ("photos", "ok", "rejected", "failed", "labels", "flagged")}
    return Audit(out=out, counts=counts, seconds=float(record["seconds"]["total"]), **given)


#: Attributes with the same name in the record.
_SAME: Final = ("out", "identity", "photos", "available", "backbone", "size", "components", "head", "seconds")
#: What protocols and sources of earlier versions lack.
_ADDED: Final = {"seen": False, "kind_top3_low": None, "kind_top3_high": None}
