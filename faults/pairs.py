"""Scenarios: two runs on one output at the same moment. Both succeed, and the current results are of one of them, whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from faults import checks
from faults.checks import Verdict
from faults.photos import bucket, download, some
from faults.running import Running, describe, fruits
from faults.trials import Figure, Trials
from fruits.errors import StoreError
from fruits.storage.outputs.runs import find

_OPTIONS = (("--components", "8"), ("--components", "16"))


def pairs(trials: Trials) -> Figure:
    """Start runs in pairs on one folder."""
    figure = Figure("pairs", "two runs started at once on one folder; half of the pairs with different options")
    expected = _expected(trials)

    def one(number: int) -> None:
        with trials.folder() as folder:
            out = folder / "out"
            _pair(figure, trials, expected, number, lambda *options: trials.start(out, *options), lambda: out)

    trials.each(figure, trials.number(50), one)
    return figure


def pairs_s3(trials: Trials) -> Figure:
    """Start runs in pairs on one prefix of a bucket."""
    figure = Figure("pairs-s3", "two runs started at once on one bucket; half of the pairs with different options")
    with trials.server() as server:
        photos, environment = trials.to_bucket(server, "photos"), server.environment()
        expected = _expected(trials)

        def one(number: int) -> None:
            name = f"pair-{number}"
            server.make_bucket(name)

            def start(*options: str) -> Running:
                return trials.start(f"s3://{name}", *options, photos=photos, environment=environment)

            with trials.folder() as folder:

                def copy() -> Path:
                    to = folder / f"copy {len(list(folder.iterdir()))}"
                    return download(bucket(name, environment), to)

                _pair(figure, trials, expected, number, start, copy)

        trials.each(figure, trials.number(20), one)
    return figure


def _expected(trials: Trials) -> dict[str, checks.Results]:
    """Return what undisturbed runs leave, by the number of components."""
    return {components: trials.expected("--components", components) for _, components in _OPTIONS}


def _pair(
    figure: Figure,
    trials: Trials,
    expected: dict[str, checks.Results],
    number: int,
    start: Callable[..., Running],
    results: Callable[[], Path],
) -> None:
    """Make a trial: two runs, a look at what they left, a third run."""
    options = (_OPTIONS[0], _OPTIONS[number % 2])
    both = [start(*each) for each in options]
    ended = [running.wait() for running in both]
    codes = sorted(-1 if end.code is None else end.code for end in ended)
    if codes != [0, 0]:
        figure.fail("; ".join(describe(end) for end in ended))
        return
    verdict = _whole_and_loadable(trials, results(), expected)
    # Then a run with the first options: whatever the two did, it must find or make exactly its own results.
    after = start(*_OPTIONS[0]).wait()
    if after.code != 0:
        figure.fail(f"the run after the pair: {describe(after)}")
        return
    verdict.add(checks.check(results(), expected["8"]))
    figure.count("both done", verdict)


def _whole_and_loadable(trials: Trials, out: Path, expected: dict[str, checks.Results]) -> Verdict:
    """Check the results against those of whichever options they are of, and ask them about a photo."""
    verdict = Verdict()
    try:
        components = str(json.loads((Path(find(str(out)).folder) / "run.json").read_bytes())["components"])
    except (OSError, ValueError, KeyError, StoreError) as exc:
        verdict.note(f"run.json cannot be read: {type(exc).__name__}", wrong=1)
        return verdict
    verdict.add(checks.check(out, expected[components]))
    asked = Running(fruits("predict", out, some(trials.photos, 1)[0], "--json"), trials.scratch / "logs").wait()
    if asked.code != 0:
        verdict.note(f"the bundle answers nothing: {describe(asked)}", wrong=1)
    return verdict
