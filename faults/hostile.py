"""Scenarios: visitors who mean harm, or whose programs are broken, before the real service. A trial is a request, or nearly one.

Wrong is: an answer that is no whole HTTP of our shape, a 5xx other than 503, a service that ends, an error in its log, a good
photo that is then answered wrongly, a row or a photo more or less than there were receipts. Each has a service of its own.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress

from faults import hostile_bodies as bodies
from faults import hostile_heads as heads
from faults import hostile_photos as files
from faults import readers
from faults.attacked import Attacked, BrokenAnswerError, Case
from faults.photos import some
from faults.trials import Figure, Trials, must_end_well
from fruits.recogniser import bundle as bundles

#: Answers that a photo may get that is none.
_PHOTO = (200, 413, 415, 422)
#: Cases that are sent at the same time.
_AT_ONCE = 4
#: Cases of a family in a test, about.
_QUICK = 50
#: So many schemathesis tries.
_SCHEMA = 20_000
_MAKERS = 4
#: Seconds to send a request, of services that slow senders meet.
_IMPATIENT_S = 2.0
#: Of the services that some families meet. Slow senders come from one address, 300 at once.
_OPTIONS = {
    "slow": ("--send-timeout", f"{_IMPATIENT_S}", "--max-connections-per-address", "1000"),
    "readers": ("--send-timeout", f"{_IMPATIENT_S}", *readers.options(most=30)),
}

FAMILIES: dict[str, str] = {
    "truncations": "a photo as JPEG, progressive JPEG, PNG and WebP, cut at every length",
    "flips": "such photos with up to eight bits changed, or up to 64 bytes replaced",
    "bombs": "small files that want a lot: huge sizes, 50,000 frames, packed zeros, markers and scans without end",
    "polyglots": "files that are a photo and a page, an archive or a script too, or pretend to be a photo",
    "types": "a good photo under other, doubled and impossible types and encodings",
    "chunked": "bodies in pieces: of one byte, without end, with sizes that are none",
    "lengths": "lengths that are wrong, doubled, or beside pieces; requests hidden in bodies",
    "forms": "forms: names of files that lead elsewhere, thousands of parts, heads and fields too long, ends that are missing",
    "floods": "thousands of fields in a body, an address, a cookie",
    "heads": "headers: endless, folded, doubled, with every control character, values that mean something to somebody",
    "lines": "first lines: HTTP/0.9, other protocols, odd methods, paths that lead elsewhere, upgrades",
    "noise": "requests with random bytes in them, and random bytes alone",
    "hosts": "names that the service does not go by",
    "pipelines": "many requests in one go",
    "feedback": "JSON: too deep, too long, doubled, NaN, broken UTF-8, lone surrogates; receipts that are none",
    "slow": "senders of a byte at a time and connections that say nothing, 300 at once",
    "readers": "visitors who ask for a lot at once and read nothing, or a byte now and then, 40 at once",
    "gone": "connections cut at any moment, before, amid and after a request",
    "schema": "requests that schemathesis makes of the OpenAPI, right ones and wrong ones",
}


def scenarios() -> dict[str, Callable[[Trials], Figure]]:
    """Return a scenario for every family, by name."""
    return {f"hostile-{name}": _scenario(name) for name in FAMILIES}


def attack(service: Attacked, name: str, trials: Trials) -> Figure:
    """Let a family loose on a running service."""
    figure = Figure(f"hostile-{name}", f"service: {FAMILIES[name]}")
    special = {"slow": _slow, "readers": readers.read_nothing, "gone": _gone, "schema": _schema}
    if name in special:
        special[name](service, figure, trials)
    else:
        # Bombs one by one: beside each other they would be refused because others wait, and show nothing.
        _send_all(service, figure, _cases(service, name, trials), 1 if name == "bombs" else _AT_ONCE)
    for problem in service.problems(files.PLANTED):
        figure.verdict.wrong += 1
        figure.failed.append(problem)
    if figure.failed:
        service.accept_unclaimed()  # so that the next family is not blamed for this one
    return figure


@contextmanager
def attacked(trials: Trials, *options: str) -> Iterator[Attacked]:
    """Give a service to attack, on results of the trials' photos."""
    out = trials.scratch / "served"
    if not (out / "run.json").is_file():
        must_end_well(trials.start(out))
    good = some(trials.photos, 1)[0].read_bytes()
    label = bundles.load(out).recognise([good])[0].labels[0]
    with trials.folder() as folder, Attacked(out, good, label, folder, options) as service:
        yield service


def _scenario(name: str) -> Callable[[Trials], Figure]:
    def scenario(trials: Trials) -> Figure:
        with attacked(trials, *_OPTIONS.get(name, ())) as service:
            return attack(service, name, trials)

    scenario.__doc__ = FAMILIES[name]
    return scenario


def _cases(service: Attacked, name: str, trials: Trials) -> Iterable[Case]:
    photo, draw = service.good, trials.chance(name)

    def sent(found: Iterable[tuple[str, bytes]]) -> Iterator[Case]:
        for number, (called, data) in enumerate(found):
            # Every other one to be kept: what is kept is made anew, and that is another way through the decoder.
            target = "/v1/recognise" + "?keep=true" * (number % 2)
            yield Case(called, [heads.post(data, target=target, kind="application/octet-stream")], _PHOTO)

    def twice(found: dict[str, bytes]) -> Iterator[Case]:
        yield from sent(found.items())
        yield from sent([("nothing", b""), *found.items()])

    makers: dict[str, Callable[[], Iterable[Case]]] = {
        "truncations": lambda: sent(files.truncations(photo, 1)),
        "flips": lambda: sent(files.flips(photo, trials.number(10_000, _QUICK), draw)),
        "bombs": lambda: sent(files.bombs(photo).items()) if trials.quick else twice(files.bombs(photo)),
        "polyglots": lambda: twice(files.polyglots(photo)),
        "types": lambda: bodies.types(photo),
        "chunked": lambda: bodies.chunked(photo, 300_000 if trials.quick else 3_000_000),
        "lengths": lambda: bodies.lengths(photo),
        "forms": lambda: bodies.forms(photo),
        "floods": bodies.floods,
        "heads": heads.heads,
        "lines": heads.lines,
        "noise": lambda: heads.noise(trials.number(5000, _QUICK), draw),
        "hosts": heads.hosts,
        "pipelines": lambda: heads.pipelines(photo),
        "feedback": lambda: bodies.feedback(_receipt(service)),
    }
    if not trials.quick:
        return makers[name]()
    every = list(makers[name]())
    return every[draw.randrange(max(1, len(every) // _QUICK)) :: max(1, len(every) // _QUICK)]


def _send_all(service: Attacked, figure: Figure, cases: Iterable[Case], at_once: int = _AT_ONCE) -> None:
    def send(case: Case) -> None:
        try:
            ended = service.send(case)
        except (BrokenAnswerError, OSError) as exc:
            figure.fail(f"{case.name}: {exc}")
        else:
            figure.count(ended)

    with ThreadPoolExecutor(at_once) as pool:
        waiting = []
        for case in cases:
            waiting.append(pool.submit(send, case))
            if len(waiting) > 200:  # a family is larger than memory should be
                waiting.pop(0).result()
        for future in waiting:
            future.result()


def _receipt(service: Attacked) -> tuple[str, str]:
    service.recognise_good()
    name, (secret, _) = next(reversed(service.receipts.items()))
    return name, secret


def _slow(service: Attacked, figure: Figure, trials: Trials) -> None:
    """Drip heads, bodies and nothing over many connections at once; a good photo must come through meanwhile."""
    each, photo = (20 if trials.quick else 100), service.good
    whole = heads.post(photo)
    cut = whole.index(b"\r\n\r\n") + 4
    kinds = {
        "a head, byte by byte": whole[:cut],
        "a body, byte by byte": whole[cut:],
        "nothing": b"",
    }
    with ExitStack() as stack:
        connections = []
        for kind, data in kinds.items():
            for _ in range(each):
                connection = stack.enter_context(service.connect())
                connection.setblocking(False)
                if kind.startswith("a body"):
                    connection.send(whole[:cut])
                connections.append((kind, data, connection))
        over: dict[int, str] = {}
        answered = dict.fromkeys(range(len(connections)), b"")
        started = time.monotonic()
        turn = 0
        while len(over) < len(connections) and time.monotonic() - started < 60:
            for number, (_, data, connection) in enumerate(connections):
                if number in over:
                    continue
                with suppress(BlockingIOError):
                    try:
                        if turn < len(data):
                            connection.send(data[turn : turn + 1])
                        more = connection.recv(1 << 16)
                    except BlockingIOError:
                        raise
                    except OSError:
                        more = b""
                    answered[number] += more
                    if not more:
                        over[number] = answered[number][9:12].decode("latin-1") or "hung up"
            if turn % 5 == 0:
                try:
                    service.recognise_good()
                    figure.count("good photo right meanwhile")
                except (BrokenAnswerError, OSError) as exc:
                    figure.fail(f"meanwhile: {exc}")
            turn += 1
            time.sleep(0.2)
        for number, (kind, _, _) in enumerate(connections):
            if over.get(number) in ("408", "hung up"):
                figure.count(over[number])
            else:
                figure.fail(f"{kind}: {over.get(number, 'still open after a minute')}")


def _gone(service: Attacked, figure: Figure, trials: Trials) -> None:
    """Cut connections anywhere; then no descriptor may be left open."""
    draw, photo = trials.chance("gone"), service.good
    before = service.descriptors()
    kinds = (heads.post(photo), heads.post(photo, target="/v1/recognise?keep=true"), heads.get(), heads.get("/"))

    def cases() -> Iterator[Case]:
        for number in range(trials.number(2000, _QUICK)):
            whole = kinds[number % len(kinds)]
            length = len(whole) if number % 3 == 0 else draw.randrange(len(whole))
            ending = "reset" if number % 2 else "half"
            pause = draw.choice((0.0, 0.001, 0.01)) if number % 3 == 0 else 0.0
            yield Case(f"cut at {length}", [whole[:length], b""], silence=True, ending=ending, pause_s=pause)

    _send_all(service, figure, cases())
    # Who is gone got no receipt, so nobody could have a photo deleted: none may be kept. Receipts of photos that were not kept,
    # the id and the day, are there until the next day.
    if photos := service.accept_unclaimed(patience_s=30):
        figure.failed.append(f"{photos} photos were kept of clients that were gone before the answer")
        figure.verdict.lost += photos
    for _ in range(100):
        if (now := service.descriptors()) <= before + 3:
            return
        time.sleep(0.1)
    figure.failed.append(f"{now} descriptors are open; expected about {before}")
    figure.verdict.wrong += 1


def _schema(service: Attacked, figure: Figure, trials: Trials) -> None:
    from faults import hostile_schema  # noqa: PLC0415 - seconds of imports, of this family alone

    wanted = trials.number(_SCHEMA, 60)
    tokens = [None, service.make_token("api"), service.make_token("owner")]
    # Making requests takes longer than answering them: several processes, each with chance of its own.
    each = [(service.url, tokens, wanted)] if trials.quick else [(service.url, tokens, wanted // _MAKERS)] * _MAKERS
    with ProcessPoolExecutor(len(each), multiprocessing.get_context("spawn")) as pool:
        explored = [
            pool.submit(hostile_schema.explore, *one, 1000 * (trials.seed * _MAKERS + place))
            for place, one in enumerate(each)
        ]
        for future in as_completed(explored):
            found = future.result()
            service.promised(found.receipts)
            figure.trials += found.outcomes.total()
            figure.outcomes.update(found.outcomes)
            for failure in found.failures:
                figure.fail(failure)
