"""Scenario: files rot. One byte of one stored file is another; the next run must notice, ``--repair`` must put it right."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from faults import checks
from faults.checks import Results
from faults.running import Ended, describe
from faults.trials import Figure, Trials

#: Choices that the stored results are not of, so that the next run has to read everything again.
_OTHER = ("--components", "16")
#: Which files, how often: all are read by every run that has work to do.
_KINDS = (("file", "*.parquet", 60), ("log", "_delta_log/*.json", 30), ("network", "*.onnx", 10))


def flips(trials: Trials) -> Figure:
    """Change one byte of a stored file, a hundred times."""
    figure = Figure("flips", "one byte changed in a file or the log of the table, or in the prepared network")
    trials.expected()  # makes the results that are damaged
    expected = trials.expected(*_OTHER)

    def one(number: int) -> None:
        chance = trials.chance(figure.name, number)
        with trials.folder() as folder:
            out = Path(shutil.copytree(trials.out(), folder / "out"))
            kind, victim = _victim(out, chance, number)
            at = flip_a_byte(victim, chance)
            _trial(figure, trials, trials.out(), out, expected, kind, victim, f"{kind}, byte {at:,}")

    trials.each(figure, trials.number(100), one)
    return figure


def _trial(
    figure: Figure, trials: Trials, before: Path, out: Path, expected: Results, kind: str, victim: Path, where: str
) -> None:
    """Run as if nothing were, then repair."""
    rows = checks.committed(before).get(before / victim.relative_to(out), 0)
    key = victim.relative_to(out).as_posix()
    whole = {path.relative_to(before): path.read_bytes() for path in before.glob("embeddings/*/*.parquet")}
    noticed = trials.start(out, *_OTHER).wait()
    if noticed.code == 0 and kind == "network":
        # It is made again from the one in the package, without a word: nothing that was computed depends on it.
        figure.count("network: made again", checks.check(out, expected))
        return
    if noticed.code == 0 and kind == "log":
        # Such as a time, or a name that hides a file, whose photos are then computed again.
        figure.count("log: makes no difference", checks.check(out, expected))
        return
    if not (noticed.is_clear_error and (kind == "log" or names_damage(noticed, key)) and "--repair" in noticed.stderr):
        figure.fail(f"{where}: not noticed, or not said of what: {describe(noticed)}")
        return
    mended = trials.start(out, *_OTHER, "--repair", "--json").wait()
    if mended.code != 0:
        figure.fail(f"{where}: --repair: {describe(mended)}")
        return
    verdict = checks.check(out, expected)
    computed = mended.json()["computed"]
    if kind == "file" and computed != rows:
        verdict.note(f"{where}: {computed} photos computed again instead of {rows}", wrong=1)
    if kind == "log" and any(
        (out / path).read_bytes() != data for path, data in whole.items() if (out / path).is_file()
    ):
        verdict.note(f"{where}: files were written again for a damaged log", wrong=1)
    figure.count(f"{kind}: named, refused, repaired", verdict)


def _victim(out: Path, chance: random.Random, number: int) -> tuple[str, Path]:
    """Return which file the trial damages: every kind in its share."""
    wheel = [(kind, pattern) for kind, pattern, weight in _KINDS for _ in range(weight // 10)]
    kind, pattern = wheel[(number * 7) % len(wheel)]  # 7 and 10 have no common divisor: few trials meet every kind, too
    return kind, chance.choice(sorted(out.glob(f"embeddings/*/{pattern}")))


def flip_a_byte(path: Path, chance: random.Random) -> int:
    """Change one byte; return which."""
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    data[at] ^= chance.randrange(1, 256)
    path.write_bytes(data)
    return at


def names_damage(ended: Ended, key: str) -> bool:
    """Whether a message says which file is damaged and what helps."""
    return key.rpartition("/")[2] in ended.stderr and "--repair" in ended.stderr
