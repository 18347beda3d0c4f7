"""Synthetic data sets for the demo, tests and load tests, where no real photos are available.

Renders photos of invented varieties on a turntable before a white background, named and laid out as Fruits-360
(Muresan and Oltean, arXiv:1712.00580): ``Training/<label>/<frame>_100.jpg``, ``r_<frame>_100.jpg``,
``r2_<frame>_100.jpg`` and the same under ``Test/``. Any number of photos, any number of varieties, any seed. The
rendering is in :mod:`fruits.photos.generated.rendering`.

Some varieties are nearly identical on purpose (``Apfelino Red 1`` and ``Red 2``, ``Moon Pear 1`` and ``2``, ``Duskplum
Blue 1`` and ``2``), so that reports have errors to show. Scores on these photos test the pipeline; they do not predict
the recognition of real fruit.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fruits.errors import ConfigError, EngineError
from fruits.monitoring.cores import usable_cores
from fruits.photos.generated.rendering import Floats, Fruit, Variety, grow, render

Pixels = NDArray[np.uint8]

FRAMES_PER_TURN = 328
SEQUENCES_PER_FRUIT = 3
JPEG_QUALITY = 92

# fmt: off
_APPLE = Variety("Apfelino Red 1", "Apfelino", (226, 184, 62), (150, 22, 26), (122, 12, 22), 0.9, dimple=0.3,
                 sunny=0.72, streaks=0.5, specks=0.2, stem=0.5)
_PEAR = Variety("Moon Pear 1", "Moon Pear", (196, 190, 84), (176, 84, 52), (96, 62, 34), 1.35, 0.48, dimple=0.1,
                specks=0.4, stem=0.5)
_BERRY = Variety("Glimmer Berry Black", "Glimmer Berry", (44, 30, 58), (70, 24, 60), (20, 14, 30), 1.2, 0.12,
                 lumps=0.06, cells=95, cell_height=0.16, gloss=0.7)
_CITRUS = Variety("Sunglobe Orange", "Sunglobe", (236, 132, 14), (240, 158, 32), (196, 92, 10), 0.95, dimple=0.06,
                  peel=0.5)
_PLUM = Variety("Duskplum Blue 1", "Duskplum", (50, 44, 92), (92, 34, 74), (128, 134, 178), 1.15, dimple=0.1,
                sunny=0.4, streaks=0.25, specks=0.1)
_STAR = Variety("Starrib Yellow", "Starrib", (232, 196, 40), (214, 150, 24), (120, 84, 22), 1.35, ribs=5,
                rib_depth=0.42, stripes=0.4)
_TUSK = Variety("Tuskana Yellow", "Tuskana", (236, 200, 60), (200, 190, 70), (84, 54, 26), 2.3, blunt=0.25, bend=0.16,
                specks=0.35)
_MELON = Variety("Melonette Striped", "Melonette", (178, 190, 96), (206, 196, 120), (40, 84, 38), 1.12, blunt=0.15,
                 ribs=10, rib_depth=0.03, specks=0.2, stripes=0.9, stem=0.2)
_SEEDED = Variety("Pitberry Red", "Pitberry", (196, 24, 28), (160, 12, 24), (226, 190, 90), 1.15, -0.42, cells=110,
                  cell_height=-0.05, gloss=0.45, stem=0.25, sepals=7)
_PEPPER = Variety("Bellina Red", "Bellina", (206, 28, 20), (178, 18, 18), (112, 128, 40), 1.1, -0.12, 0.5, dimple=0.34,
                  ribs=4, rib_depth=0.12, lumps=0.09, gloss=0.75, stem=0.6)
_CHERRY = Variety("Cherrine Dark", "Cherrine", (112, 8, 24), (70, 4, 18), (150, 40, 40), 0.94, dimple=0.22, gloss=0.65,
                  stem=1.3)
_TOMATO = Variety("Tomatelle Round", "Tomatelle", (206, 44, 22), (214, 92, 30), (220, 120, 50), 0.82, dimple=0.16,
                  ribs=7, rib_depth=0.04, gloss=0.6, stem=0.25, sepals=5)
# fmt: on

# One variety of each kind first, so that a small set differs in kind; then the near twins, so that a medium set has them.
VARIETIES: tuple[Variety, ...] = (
    *(_APPLE, _PEAR, _BERRY, _CITRUS, _PLUM, _STAR, _TUSK, _MELON, _SEEDED, _PEPPER, _CHERRY, _TOMATO),
    replace(_APPLE, name="Apfelino Red 2", height=0.93, sunny=0.66, streaks=0.7),
    replace(_PEAR, name="Moon Pear 2", height=1.3, taper=0.44, specks=0.55),
    replace(_PLUM, name="Duskplum Blue 2", skin=(56, 44, 88), height=1.1, streaks=0.35),
    replace(_BERRY, name="Glimmer Berry Rose", skin=(190, 36, 62), blush=(204, 64, 84), cells=120, cell_height=0.13),
    replace(_CITRUS, name="Sunglobe Lemon", skin=(238, 204, 44), blush=(226, 208, 70), height=1.3, peel=0.6),
    replace(_STAR, name="Starrib Green", skin=(150, 176, 50), blush=(190, 180, 60), ribs=6, rib_depth=0.34),
    replace(_TUSK, name="Tuskana Red", skin=(140, 44, 34), blush=(166, 76, 40), marks=(70, 22, 22), height=2.0),
    replace(_MELON, name="Melonette Dark", skin=(52, 92, 44), blush=(70, 108, 50), marks=(18, 46, 26), height=1.0),
    replace(_SEEDED, name="Pitberry Pale", skin=(236, 206, 178), blush=(228, 150, 132), marks=(176, 40, 40)),
    replace(_PEPPER, name="Bellina Yellow", skin=(240, 176, 14), blush=(232, 146, 14), ribs=3),
    replace(_CHERRY, name="Cherrine Dawn", skin=(232, 176, 84), blush=(196, 36, 36), sunny=0.5, specks=0.15),
    replace(_TOMATO, name="Tomatelle Rib", height=0.7, ribs=9, rib_depth=0.13, lumps=0.08),
    replace(_APPLE, name="Apfelino Gold", blush=(214, 140, 60), sunny=0.2, streaks=0.1, specks=0.5),
    replace(
        _APPLE, name="Apfelino Green", skin=(120, 152, 52), blush=(160, 172, 70), marks=(190, 200, 130), specks=0.6
    ),
    replace(_PEAR, name="Moon Pear Blush", blush=(166, 36, 40), height=1.5, sunny=0.6),
    replace(_PEAR, name="Moon Pear Russet", skin=(158, 116, 58), blush=(140, 84, 44), peel=0.25, specks=0.8, gloss=0.1),
    replace(_BERRY, name="Glimmer Berry Amber", skin=(222, 150, 44), blush=(214, 110, 40), height=1.0, cells=75),
    replace(_CITRUS, name="Sunglobe Lime", skin=(110, 146, 36), blush=(158, 170, 56), marks=(64, 100, 24), specks=0.3),
    replace(_PLUM, name="Duskplum Mirabel", skin=(230, 178, 50), blush=(200, 96, 40), marks=(180, 70, 40), specks=0.5),
    replace(_TUSK, name="Tuskana Green", skin=(120, 152, 52), blush=(164, 176, 70), marks=(70, 100, 34), bend=0.1),
    replace(
        _MELON, name="Melonette Net", skin=(206, 160, 84), marks=(226, 206, 160), stripes=0.25, specks=0.9, peel=0.8
    ),
    replace(_PEPPER, name="Bellina Green", skin=(44, 92, 26), blush=(66, 110, 34), height=1.35),
    replace(_TOMATO, name="Tomatelle Umber", skin=(98, 40, 30), blush=(72, 58, 30), marks=(60, 70, 30), streaks=0.4),
)


def generate_varieties(n: int, seed: int = 0) -> tuple[Variety, ...]:
    """Return ``n`` varieties: the named ones first, then further ones, crossed at random from the named ones.

    Parameters
    ----------
    n : int
        Number of varieties, at least 1.
    seed : int
        Random seed for the look of the further varieties; their names do not depend on it.

    Returns
    -------
    tuple of Variety
        Length n, with unique names; the result for a smaller n is a prefix of that for a larger n.

    Raises
    ------
    ConfigError
        If ``n`` is below 1.
    """
    if n < 1:
        raise ConfigError(f"{n} varieties asked for, expected 1 or more: raise varieties")
    further = (_cross(number, seed) for number in range(n - len(VARIETIES)))
    return (*VARIETIES[:n], *further)


def photo(variety: Variety, axis: str, frame: int, *, seed: int = 0, size: int = 100) -> Pixels:
    """Render one frame of an image sequence: one fruit of a variety at one angle of its turn.

    Pixels are the same on every machine. About 2 ms on one core at 100 x 100, plus 10 ms for the first photo of each fruit.

    Parameters
    ----------
    variety : Variety
        Variety to render.
    axis : str
        Sequence: ``""`` upright, ``"r"`` lying, ``"r2"`` tumbling; ``"r3"``, ``"r4"``, ``"r5"`` are the same turns of a
        second fruit of the variety, and so on.
    frame : int
        Frame number, 0 or more; 328 frames are a full turn.
    seed : int
        Random seed of the fruits and of the light.
    size : int
        Width and height in pixels, 16 or more.

    Returns
    -------
    ndarray of shape (size, size, 3), uint8
        RGB on white.

    Raises
    ------
    ConfigError
        If the axis, the frame or the size is not valid.
    """
    sequence = _sequence_of(axis)
    if frame < 0 or size < 16:
        raise ConfigError(f"frame {frame}, size {size}; expected 0 or more and 16 or more: raise them")
    fruit = _fruit(variety, seed, sequence // SEQUENCES_PER_FRUIT, max(200, 2 * size))
    studio = _rng("light", variety.name, seed, sequence)
    pose = _pose(sequence, frame, studio.uniform(-0.12, 0.12))
    light = np.array([-0.5, 0.6, 0.75]) + studio.uniform(-0.15, 0.15, 3)
    tint = (1.0 + studio.uniform(-0.06, 0.06) * np.array([1.0, 0.2, -1.0])) * studio.uniform(0.92, 1.08)
    linear = render(fruit, pose, light.astype(np.float32), tint.astype(np.float32), size)
    grain = _rng("grain", variety.name, seed, sequence, frame).integers(-3, 4, (size, size), dtype=np.int8)
    # The background stays pure white, as in Fruits-360, where it was cut out.
    grain *= linear.min(axis=0) < 0.999
    shown = np.sqrt(np.minimum(linear, 1.0)) * np.float32(255.0)
    shown += grain
    np.clip(np.rint(shown, out=shown), 0.0, 255.0, out=shown)
    return np.ascontiguousarray(shown.astype(np.uint8).transpose(1, 2, 0))


# Three sequences of one fruit follow each other, and a caller may alternate between two or three varieties.
@lru_cache(maxsize=6)
def _fruit(variety: Variety, seed: int, specimen: int, side: int) -> Fruit:
    """Return the fruit of a variety, seed and specimen; deterministic."""
    return grow(variety, _rng("fruit", variety.name, seed, specimen), side)


def write_photos(
    root: Path,
    *,
    photos: int = 2400,
    varieties: int = len(VARIETIES),
    seed: int = 0,
    test_share: float = 0.25,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> int:
    """Fill a folder with photos, named and laid out as Fruits-360.

    Existing files are kept and files are written atomically, so a killed call can be repeated and gives the same bytes.
    Use one folder per set of arguments.

    Parameters
    ----------
    root : Path
        Folder to fill; created if missing.
    photos : int
        Exact number of photos, spread evenly over the varieties, then over their sequences, then over the turn.
    varieties : int
        Number of labels, see :func:`generate_varieties`.
    seed : int
        See :func:`photo`.
    test_share : float
        Share of each variety that goes to ``Test``, 0 to 1: spread evenly along each sequence, so that neighbouring
        frames are in both splits, as in Fruits-360.
    progress : callable, optional
        Called with the number of photos just finished, existing ones included.
    workers : int, optional
        Number of processes; None uses every core, 1 works in this process.

    Returns
    -------
    int
        Number of photos written by this call: ``photos`` minus existing ones.

    Raises
    ------
    ConfigError
        If the numbers contradict each other.
    EngineError
        If a worker process dies.
    """
    if photos < varieties:
        raise ConfigError(f"photos: {photos}, varieties: {varieties}; expected one photo each or more: raise photos")
    if not 0.0 <= test_share <= 1.0:
        raise ConfigError(f"test_share is {test_share}, expected 0 to 1: give the share of the photos meant for Test")
    n_workers = workers if workers is not None else usable_cores()
    if n_workers < 1:
        raise ConfigError(f"{n_workers} workers, expected 1 or more: leave workers out to take every core")
    tasks = [
        (root, variety, seed, shoot)
        for number, variety in enumerate(generate_varieties(varieties, seed))
        for shoot in _shoots(photos // varieties + (number < photos % varieties), test_share)
    ]
    written = 0
    for n_written, n_done in _work(tasks, min(n_workers, len(tasks))):
        written += n_written
        if progress is not None:
            progress(n_done)
    return written


def taxonomy(varieties: int = len(VARIETIES), seed: int = 0) -> str:
    """Return the taxonomy of the labels of :func:`generate_varieties`, as CSV text for ``fruits run --taxonomy``."""
    lines = ["label,kind,variety,en,fr"]
    for variety in generate_varieties(varieties, seed):
        name = re.sub(r" [0-9]+$", "", variety.name)  # Apfelino Red 1 and 2 are fruits of one variety
        ids = (text.lower().replace(" ", "-") for text in (variety.kind, name))
        lines.append(",".join((variety.name, *ids, name, name)))
    kinds = sorted({variety.kind for variety in generate_varieties(varieties, seed)})
    lines += [f",{kind.lower().replace(' ', '-')},,{kind},{kind}" for kind in kinds]
    return "\n".join(lines) + "\n"


# --- Image sequences --------------------------------------------------------------------------------------------------

Shot = tuple[str, int, str]  # axis, frame, split
Task = tuple[Path, Variety, int, list[Shot]]


def _shoots(n: int, test_share: float) -> list[list[Shot]]:
    """Return the n frames of one variety, a list per fruit: a fruit is grown once and rendered on its three axes."""
    sequences = max(SEQUENCES_PER_FRUIT, -(-n // FRAMES_PER_TURN))
    shoots: list[list[Shot]] = [[] for _ in range(-(-sequences // SEQUENCES_PER_FRUIT))]
    taken = 0
    for sequence in range(sequences):
        n_frames = n // sequences + (sequence < n % sequences)
        for i in range(n_frames):
            is_test = math.floor((taken + 1) * test_share + 0.5) > math.floor(taken * test_share + 0.5)
            shot = (_axis_of(sequence), i * FRAMES_PER_TURN // n_frames, "Test" if is_test else "Training")
            shoots[sequence // SEQUENCES_PER_FRUIT].append(shot)
            taken += 1
    return [shots for shots in shoots if shots]


def _axis_of(sequence: int) -> str:
    """Return the prefix of a sequence's file names."""
    return "" if sequence == 0 else "r" if sequence == 1 else f"r{sequence}"


def _sequence_of(axis: str) -> int:
    """Return the number of a sequence from the prefix of its file names; inverse of :func:`_axis_of`."""
    if not re.fullmatch(r"|r|r[2-9]|r[1-9][0-9]+", axis):
        raise ConfigError(f"axis is {axis!r}, expected '', 'r', 'r2', 'r3' and so on: name one of these sequences")
    return 0 if axis == "" else int(axis[1:] or 1)


def _pose(sequence: int, frame: int, tilt: float) -> Floats:
    """Rotation (3, 3) from fruit to camera at a frame of a sequence: upright, lying or tumbling, slightly tilted."""
    angle = 2.0 * math.pi * (frame % FRAMES_PER_TURN) / FRAMES_PER_TURN
    before, after = (
        (_rotation(1, angle), _rotation(0, 0.2 + tilt)),
        (_rotation(2, 0.5 * math.pi + tilt), _rotation(1, angle)),
        (_rotation(2, 0.6 + tilt), _rotation(0, angle)),
    )[sequence % SEQUENCES_PER_FRUIT]
    # Term by term: the last digits of a library's matrix product, and of sum(), depend on machine and version.
    turned = [[row[0] * a + row[1] * b + row[2] * c for a, b, c in zip(*before, strict=True)] for row in after]
    return np.array(turned, np.float32)


def _rotation(axis: int, angle: float) -> list[list[float]]:
    """Rows of the rotation matrix about a coordinate axis."""
    c, s = round(math.cos(angle), 9), round(math.sin(angle), 9)
    rows = [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]
    return [[rows[i - axis - 1][j - axis - 1] for j in range(3)] for i in range(3)]


def _work(tasks: list[Task], workers: int) -> Iterator[tuple[int, int]]:
    """Run every task; yield for each the photos written and the photos in total, in the order of completion."""
    if workers == 1:
        yield from map(_shoot, tasks)
        return
    # Never plain fork: the caller may run threads (ONNX Runtime, Arrow), and a forked lock stays locked forever.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method)) as pool:
        try:
            for future in as_completed([pool.submit(_shoot, task) for task in tasks]):
                yield future.result()
        except BrokenProcessPool as exc:
            raise EngineError("a worker died while making photos: run again, what is written is kept") from exc
        finally:
            pool.shutdown(cancel_futures=True)


def _shoot(task: Task) -> tuple[int, int]:
    """Write the missing photos of one fruit; return how many were written, and how many the task has."""
    root, variety, seed, shots = task
    folders = {split: root / split / variety.name for _, _, split in shots}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for axis, frame, split in shots:
        path = folders[split] / f"{axis}{'_' if axis else ''}{frame}_100.jpg"
        if path.exists():
            continue
        jpeg = BytesIO()
        Image.fromarray(photo(variety, axis, frame, seed=seed)).save(jpeg, "JPEG", quality=JPEG_QUALITY)
        # Written to a temporary name, which a second call overwrites, then renamed: a kill leaves no half-written photo.
        part = path.with_suffix(".part")
        part.write_bytes(jpeg.getvalue())
        part.replace(path)
        written += 1
    return written, len(shots)


# --- Further varieties ------------------------------------------------------------------------------------------------


def _cross(number: int, seed: int) -> Variety:
    """Return a further variety: the shape of one named variety, the colours of another, both perturbed."""
    rng = _rng("variety", seed, number)
    body, paint = (VARIETIES[int(i)] for i in rng.integers(0, len(VARIETIES), 2))
    syllables = (
        ("Bel", "Cor", "Dul", "Fen", "Gal", "Mir", "Nor", "Tas"),
        ("a", "e", "i", "o"),
        ("bo", "lin", "ra", "zu"),
    )
    word = syllables[0][number % 8] + syllables[1][number // 8 % 4] + syllables[2][number // 32 % 4]
    tints = np.clip(np.array([paint.skin, paint.blush, paint.marks]) + rng.integers(-28, 29, (3, 3)), 8, 244)
    skin, blush, marks = ((int(red), int(green), int(blue)) for red, green, blue in tints)
    return replace(
        body,
        name=f"{word} Seedling {number // 128 + 1}",
        skin=skin,
        blush=blush,
        marks=marks,
        height=body.height * rng.uniform(0.88, 1.14),
        taper=body.taper + rng.uniform(-0.08, 0.08),
        ribs=body.ribs + int(rng.integers(0, 3)) if body.ribs else 0,
        cells=int(body.cells * rng.uniform(0.7, 1.2)),
        sunny=rng.uniform(0.0, 0.8),
        streaks=rng.uniform(0.0, 0.8),
        specks=rng.uniform(0.0, 0.8),
        gloss=rng.uniform(0.1, 0.8),
    )


def _rng(*parts: object) -> np.random.Generator:
    """Return a generator seeded by the parts; not by hash(), which differs from process to process."""
    digest = hashlib.sha256("|".join(str(part) for part in parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
