"""What ``decoder.py`` promises: the answers of ``images.py``, and a photo that kills costs nothing but itself."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from fruits.errors import EngineError, ImageDecodeError
from fruits.photos.decoding.decoder import Decoder, Limits
from fruits.photos.decoding.images import Photo, Preprocessing, to_network_input, to_thumbnail

FAULTY = Path(__file__).parents[2] / "faulty_decoder"
MARKED = runpy.run_path(str(FAULTY / "marked.py"))
marked: Callable[[bytes, str], bytes] = MARKED["marked"]
endless: Callable[[int, int], bytes] = MARKED["endless"]
CODES: dict[str, str] = MARKED["CODES"]
SMALL = Preprocessing(64)
#: Far more than a small photo takes, and little to wait for.
#: Filling 512 MiB takes half a second on some machines, and must be told from looping.
TIGHT = Limits(cpu_s=2.0, wall_s=5.0, memory_mib=512)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """A decoder whose child starts with the first photo."""
    with Decoder(TIGHT) as opened:
        yield opened


@pytest.fixture(scope="module")
def running() -> Iterator[Decoder]:
    """A decoder that all tests share that do not harm it."""
    with Decoder(TIGHT) as opened:
        yield opened


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[Decoder]:
    """A decoder whose child dies of marked photos."""
    monkeypatch.setenv("PYTHONPATH", str(FAULTY))
    with Decoder(TIGHT) as opened:
        yield opened


@pytest.fixture(scope="module")
def some(photos: Path) -> list[bytes]:
    """40 photos, all different."""
    return [path.read_bytes() for path in sorted(photos.glob("Training/*/*.jpg"))[::6][:40]]


Answer = tuple[int, int, bytes] | tuple[str, str]


def in_process(data: bytes, preprocessing: Preprocessing = SMALL) -> Answer:
    try:
        photo = to_network_input(data, preprocessing)
    except ImageDecodeError as exc:
        return exc.code, str(exc)
    return photo.width, photo.height, photo.pixels.tobytes()


def in_child(decoder: Decoder, files: list[bytes], preprocessing: Preprocessing = SMALL) -> list[Answer]:
    with decoder.begin(files, preprocessing) as decoding:
        outcomes = decoding.outcomes()
        assert len(outcomes) == len(files)
        pixels = iter(decoding.pixels(preprocessing.size))
        answers: list[Answer] = [
            (one.code, str(one)) if isinstance(one, ImageDecodeError) else (*one, next(pixels).tobytes())
            for one in outcomes
        ]
        assert next(pixels, None) is None
        return answers


def pid(decoder: Decoder) -> int:
    assert decoder._child is not None
    return decoder._child.process.pid


def gone(process: int) -> bool:
    """Whether a process ended; one that nobody buries counts."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


# --- The same answers as without a child ------------------------------------------------------------------------------


@pytest.mark.parametrize("preprocessing", [SMALL, Preprocessing(100), Preprocessing(33, "crop", "lanczos")])
def test_pixels_are_those_of_decoding_in_this_process(
    running: Decoder, some: list[bytes], preprocessing: Preprocessing
) -> None:
    assert in_child(running, some, preprocessing) == [in_process(data, preprocessing) for data in some]


def test_refusals_are_those_of_decoding_in_this_process(running: Decoder, some: list[bytes]) -> None:
    files = [some[0], b"", b"text", some[1][:1500], b"GIF89a" + bytes(20), some[2], b"\xff\xd8\xff", some[3]]
    answers = in_child(running, files)
    assert answers == [in_process(data) for data in files]
    assert [answer[0] for answer in answers[1:5]] == ["empty", "not an image", "damaged", "unsupported format"]


@pytest.mark.parametrize("size", [1, 7, 40])
def test_how_photos_are_cut_into_batches_changes_nothing(running: Decoder, some: list[bytes], size: int) -> None:
    pieces = [in_child(running, some[start : start + size]) for start in range(0, len(some), size)]
    assert [answer for piece in pieces for answer in piece] == [in_process(data) for data in some]


def test_no_photos_are_no_answers_and_need_no_child(decoder: Decoder) -> None:
    assert in_child(decoder, []) == []
    assert decoder._child is None


def test_one_photo_and_its_thumbnail(running: Decoder, a_photo: bytes) -> None:
    photo, expected = running.to_network_input(a_photo, SMALL), to_network_input(a_photo, SMALL)
    assert isinstance(photo, Photo)
    assert (photo.width, photo.height) == (expected.width, expected.height)
    assert (photo.pixels == expected.pixels).all()
    assert running.to_thumbnail(a_photo, 48) == to_thumbnail(a_photo, 48)
    for ask in (lambda: running.to_network_input(b"text", SMALL), lambda: running.to_thumbnail(b"text", 48)):
        with pytest.raises(ImageDecodeError, match="expected JPEG, PNG") as caught:
            ask()
        assert caught.value.code == "not an image"


def test_largest_thumbnail_has_room(running: Decoder) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    assert running.to_thumbnail(out.getvalue(), 256, 100) == to_thumbnail(out.getvalue(), 256, 100)


def test_pixels_stay_while_the_next_batches_are_decoded(running: Decoder, some: list[bytes]) -> None:
    first = running.begin(some[:20], SMALL)
    first.outcomes()
    kept = first.pixels(64)
    second = running.begin(some[20:], SMALL)
    second.outcomes()
    in_child(running, some[::-1])
    running.to_network_input(some[5], SMALL)
    pixels = [*kept, *second.pixels(64)]
    assert [one.tobytes() for one in pixels] == [in_process(data)[2] for data in some]


def test_memory_is_used_again_once_released(decoder: Decoder, some: list[bytes]) -> None:
    buffers = set()
    for _ in range(6):
        with decoder.begin(some, SMALL) as decoding:
            buffers.add(decoding.buffer.number)
    assert len(buffers) == 1


def test_batch_that_nobody_waits_for_disturbs_no_other(running: Decoder, some: list[bytes]) -> None:
    for _ in range(5):
        running.begin(some, SMALL)
    assert in_child(running, some[:3]) == [in_process(data) for data in some[:3]]


def test_threads_may_share_a_decoder(running: Decoder, some: list[bytes]) -> None:
    def ask(number: int) -> bool:
        data = some[number % len(some)]
        if number % 5 == 0:
            return in_child(running, some[:4]) == [in_process(one) for one in some[:4]]
        if number % 5 == 1:
            return running.to_thumbnail(data, 32) == to_thumbnail(data, 32)
        return running.to_network_input(data, SMALL).pixels.tobytes() == in_process(data)[2]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(100)))


# --- Photos that kill -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fault", CODES)
def test_photo_that_kills_costs_itself_and_no_other(faulty: Decoder, some: list[bytes], fault: str) -> None:
    """First, in the middle, twice in a row, and last."""
    files = some[:6]
    killers = (0, 3, 4, 7)
    if fault in ("hang", "loop"):  # waited for by the clock, or for two seconds of a processor
        killers = (3,)
    for place in killers:
        files.insert(place, marked(some[place], fault))
    answers = in_child(faulty, files)
    for place, (data, answer) in enumerate(zip(files, answers, strict=True)):
        if place in killers:
            assert answer[0] == CODES[fault]
            assert "decode" in answer[1]
        else:
            assert answer == in_process(data)


def test_message_names_the_signal(faulty: Decoder, a_photo: bytes) -> None:
    with pytest.raises(ImageDecodeError, match="signal SIGSEGV") as caught:
        faulty.to_thumbnail(marked(a_photo, "crash"), 32)
    assert caught.value.code == "crashed"


def test_marked_photos_are_harmless_without_the_hook(running: Decoder, a_photo: bytes) -> None:
    for fault in CODES:
        assert in_child(running, [marked(a_photo, fault)]) == [in_process(a_photo)]


@pytest.mark.slow
def test_real_photo_that_takes_for_ever_is_stopped(a_photo: bytes) -> None:
    """A valid JPEG of less than a megabyte whose scans take minutes: no hook."""
    killer = endless(8000, 5000)
    assert len(killer) < 1 << 20
    # However busy the machine is, it is the processor time that ends it.
    with Decoder(Limits(cpu_s=2.0, memory_mib=512)) as decoder:
        before, killed, after = in_child(decoder, [a_photo, killer, a_photo])
    assert before == after == in_process(a_photo)
    assert killed[0] == "timeout"
    assert "2 s of processor time" in str(killed[1])


@pytest.fixture(scope="module")
def large_photo() -> bytes:
    """A PNG with transparency of 25 million pixels: 100 MB once decoded, and three times that on the way."""
    out = BytesIO()
    Image.new("RGBA", (5000, 5000), (10, 120, 30, 128)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def test_photo_beyond_the_memory_allowed_is_too_large(large_photo: bytes, a_photo: bytes) -> None:
    with Decoder(Limits(memory_mib=150)) as decoder:
        before, refused, after = in_child(decoder, [a_photo, large_photo, a_photo])
        process = pid(decoder)
        assert before == after == in_process(a_photo)
        assert refused[0] == "too large"
        assert "150 MiB" in str(refused[1])
        assert in_child(decoder, [a_photo]) == [before]
        assert pid(decoder) == process, "the child need not die of it"


@pytest.mark.slow
def test_default_limits_take_a_large_photo(large_photo: bytes) -> None:
    with Decoder() as decoder:
        assert in_child(decoder, [large_photo]) == [in_process(large_photo)]


# --- Outsiders --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_child_killed_at_any_moment_loses_nothing(decoder: Decoder, some: list[bytes]) -> None:
    """Twelve times from another thread, each somewhere within the next batches."""
    expected = [in_process(data) for data in some]
    rounds, over = threading.Semaphore(0), threading.Event()

    def kill() -> None:
        random = np.random.default_rng(0)
        for _ in range(12):
            # A child killed before it has begun anything, again and again, is another matter: wait for a new round.
            while rounds.acquire(blocking=False):
                pass
            if not rounds.acquire(timeout=60):
                break  # the other thread failed
            over.wait(random.uniform(0, 0.02))
            child = decoder._child
            if child is not None and child.process.returncode is None:
                child.process.send_signal(signal.SIGKILL)
        over.set()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        while not over.is_set():
            assert in_child(decoder, some) == expected
            rounds.release()
    finally:
        killer.join()


def test_child_killed_while_it_starts_loses_nothing(decoder: Decoder, a_photo: bytes) -> None:
    for _ in range(3):
        decoder.close()
        decoder.start()
        os.kill(pid(decoder), signal.SIGKILL)
        assert in_child(decoder, [a_photo]) == [in_process(a_photo)]


def test_child_outlives_ctrl_c(decoder: Decoder, a_photo: bytes) -> None:
    assert in_child(decoder, [a_photo]) == [in_process(a_photo)]
    process = pid(decoder)
    os.kill(process, signal.SIGINT)
    assert in_child(decoder, [a_photo]) == [in_process(a_photo)]
    assert pid(decoder) == process


@pytest.mark.parametrize("busy", [False, True])
def test_child_ends_with_its_parent(a_photo: bytes, tmp_path: Path, busy: bool) -> None:
    (tmp_path / "photo.jpg").write_bytes(marked(a_photo, "loop") if busy else a_photo)
    script = f"""
import sys, time
from pathlib import Path
from fruits.photos.decoding.decoder import Decoder, Limits
from fruits.photos.decoding.images import Preprocessing
decoder = Decoder(Limits(cpu_s=1000, wall_s=1000))
decoding = decoder.begin([Path({str(tmp_path / "photo.jpg")!r}).read_bytes()], Preprocessing(64))
while decoding.state(0) < {1 if busy else 2}:
    time.sleep(0.01)
print(decoder._child.process.pid, flush=True)
time.sleep(1000)
"""
    environment = {**os.environ, "PYTHONPATH": str(FAULTY)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    # It is the system that ends it, so this ends; the test's own time limit is that of the runner.
    while not gone(child):
        threading.Event().wait(0.01)


def test_interpreter_ends_quietly_with_a_decoder_open(a_photo: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(a_photo)
    script = f"""
from pathlib import Path
from fruits.photos.decoding.decoder import Decoder
from fruits.photos.decoding.images import Preprocessing
decoder = Decoder()
print(decoder.to_network_input(Path({str(tmp_path / "photo.jpg")!r}).read_bytes(), Preprocessing(64)).width)
decoder.begin([b"text"], Preprocessing(64))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100\n", "")


# --- The process itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_restarts_leave_neither_files_nor_processes(faulty: Decoder, some: list[bytes]) -> None:
    def held() -> tuple[int, int]:
        this = psutil.Process()
        return this.num_fds(), len(this.children(recursive=True))

    in_child(faulty, some)
    before = held()
    assert [answer[0] for answer in in_child(faulty, [marked(some[0], "crash")] * 8)] == ["crashed"] * 8
    in_child(faulty, some)
    assert held() == before
    faulty.close()
    assert held()[1] == before[1] - 1


def test_closed_decoder_starts_again_when_asked(decoder: Decoder, a_photo: bytes) -> None:
    begun = decoder.begin([a_photo], SMALL)
    decoder.close()
    with pytest.raises(EngineError, match="closed"):
        begun.outcomes()
    assert in_child(decoder, [a_photo]) == [in_process(a_photo)]


def test_child_that_cannot_start_is_not_the_photos_fault(
    decoder: Decoder, a_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(EngineError, match="cannot start"):
        in_child(decoder, [a_photo])
    monkeypatch.undo()
    assert in_child(decoder, [a_photo]) == [in_process(a_photo)]


def test_child_that_dies_before_any_photo_is_not_the_photos_fault(
    decoder: Decoder, a_photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", ["/nowhere"])
    with pytest.raises(EngineError, match=r"(?s)before it began one \(exit code 1\).*No module named"):
        in_child(decoder, [a_photo])
    monkeypatch.undo()
    assert in_child(decoder, [a_photo]) == [in_process(a_photo)]


def test_child_imports_little() -> None:
    script = "import sys, fruits.photos.decoding.decoder_process; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy: set[Any] = {"pyarrow", "onnxruntime", "onnx", "sklearn", "scipy", "obstore", "multiprocessing"}
    assert not heavy & set(loaded)
