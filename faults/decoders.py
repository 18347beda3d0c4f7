"""Scenario: photos that kill their decoder, among many that do not. Each costs itself and nothing else."""

from __future__ import annotations

import csv
import importlib.util
import os
from collections import Counter
from pathlib import Path
from types import ModuleType

from faults import checks
from faults.checks import Verdict, name_of
from faults.kills import SPARK
from faults.photos import planted, some
from faults.running import REPOSITORY, describe, with_repository
from faults.trials import Figure, SkippedError, Trials

_HOOK = REPOSITORY / "tests" / "faulty_decoder"
_FAULTS = ("crash", "loop", "bomb")


def decoders_local(trials: Trials) -> Figure:
    """Run over such photos with the local engine."""
    return _run(trials, "decoders-local", "local engine", ())


def decoders_spark(trials: Trials) -> Figure:
    """Run over such photos on Spark."""
    return _run(trials, "decoders-spark", "Spark local[2]", SPARK)


def _run(trials: Trials, name: str, where: str, options: tuple[str, ...]) -> Figure:
    """Run once; every photo is a trial. The good ones' embeddings must be those of a run without the bad ones."""
    each, good = (2, 200) if trials.quick else (20, 2000)
    figure = Figure(
        name, f"{each} photos each that crash, occupy or bloat their decoder among {good:,} good ones; {where}"
    )
    marking = _marking()
    with trials.folder() as folder:
        photos = planted(folder / "photos", good)
        alone = trials.start(folder / "alone", photos=photos).wait()
        if alone.code != 0:
            raise RuntimeError(f"an undisturbed run failed: {describe(alone)}")
        codes = _plant_bad(photos, marking, each)
        hook = {"PYTHONPATH": os.pathsep.join([str(_HOOK), with_repository(os.environ)])}
        ended = trials.start(folder / "out", *options, photos=photos, environment=hook).wait(7200)
        figure.trials = good + len(codes)
        if ended.code != 0:
            figure.failed.append(describe(ended))
            figure.verdict.wrong += 1
            return figure
        verdict = _judge(folder, codes, figure.outcomes)
    figure.verdict.add(verdict)
    figure.failed += verdict.notes
    return figure


def _plant_bad(photos: Path, marking: ModuleType, each: int) -> dict[str, str]:
    """Put bad photos beside good ones; return the code that each must be rejected with, by name."""
    codes = {}
    for number, path in enumerate(some(photos, each * len(_FAULTS))):
        fault = _FAULTS[number % len(_FAULTS)]
        bad = path.with_name(f"{path.stem} {fault}.jpg")
        bad.write_bytes(marking.marked(path.read_bytes(), fault))
        codes[name_of(str(bad))] = marking.CODES[fault]
    return codes


def _judge(folder: Path, codes: dict[str, str], outcomes: Counter[str]) -> Verdict:
    """Compare rows with what they must be: a reason for each bad photo, the same bits for each good one."""
    verdict = Verdict()
    alone, found = (checks.read(folder / name, verdict) for name in ("alone", "out"))
    if alone is None or found is None:
        return verdict
    lost = [name for name in [*alone.embeddings, *codes] if name not in found.embeddings]
    verdict.note(f"{len(lost)} lost, such as {lost[:3]}", lost=len(lost))
    doubled = [name for name, rows in found.embeddings.items() if len(rows) > 1]
    verdict.note(f"{len(doubled)} doubled, such as {doubled[:3]}", doubled=len(doubled))
    differ = [name for name, rows in alone.embeddings.items() if found.embeddings.get(name, rows) != rows]
    verdict.note(f"{len(differ)} good photos differ, such as {differ[:3]}", wrong=len(differ))
    with (folder / "out" / "rejected.csv").open(encoding="utf-8", newline="") as file:
        listed = {name_of(row["uri"]): (row["status"], row["code"]) for row in csv.DictReader(file)}
    for name in sorted(listed.keys() | codes.keys()):
        if listed.get(name) != ("rejected", codes.get(name)):
            verdict.note(f"{name}: listed as {listed.get(name)}, expected {codes.get(name)}", wrong=1)
    outcomes["good photos right"] = len(alone.embeddings.keys() - {*differ, *lost})
    for code, count in Counter(code for _, code in listed.values()).items():
        outcomes[f"rejected: {code}"] = count
    return verdict


def _marking() -> ModuleType:
    """Load the module that marks photos; it belongs to the tests of the decoder."""
    path = _HOOK / "marked.py"
    if not path.is_file():
        raise SkippedError("the hook that makes photos kill their decoder is not here (tests/faulty_decoder)")
    spec = importlib.util.spec_from_file_location("marked", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
