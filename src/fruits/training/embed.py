"""The embedding job, the first step of every command: list photos, prepare the network, compute missing embeddings.

There is one embedding job per network, preprocessing and schema version. Its embeddings are stored, and only missing ones are
computed.
"""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fruits.config import DEFAULT_BACKBONE, RunConfig
from fruits.embedding.backbone import Backbone, computation_id, find_backbone, training_photos
from fruits.embedding.card import Card
from fruits.embedding.model import ModelFile
from fruits.embedding.session import usable_device
from fruits.embedding.stage import EmbedStage
from fruits.engines import Engine
from fruits.engines.local import LocalEngine
from fruits.errors import StoreError, counted, naming, option
from fruits.monitoring.clock import Clock, Progress
from fruits.photos.catalogue.catalogue import Catalogue, list_photos
from fruits.photos.decoding.images import Preprocessing
from fruits.photos.reading.access import Access
from fruits.photos.reading.samples import typical_side, white_backdrops
from fruits.storage.disk.locks import FolderLock
from fruits.storage.embeddings.inventory import FEWEST_ROWS, Inventory, plan, take, uncommitted
from fruits.storage.embeddings.table import EmbeddingTable, File
from fruits.storage.embeddings.upkeep import lock_table, remove_needless, repair
from fruits.storage.objects import Objects
from fruits.storage.sanitising import json_text
from fruits.storage.tables import schemas
from fruits.storage.tables.spool import Spool

#: File beside the embeddings that lists the network's training photos, as named by its card.
TRAINING_PHOTOS: Final = "training_photos"
#: Files are committed when the last commit is this many seconds ago, or this many times as long as it took.
_WAVE_S: Final = 1.0
_WAVE_COMMITS: Final = 30
#: Minimum share of photos on a white background for a network trained on such photos; below it, a warning is given.
_LIKE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared embedding job: the network as a file for workers, and the table, which stays while ``lock`` lives."""

    card: Card
    preprocessing: Preprocessing
    model: ModelFile
    stored: EmbeddingTable
    device: str = "cpu"
    lock: FolderLock | None = None


def catalogued(config: RunConfig, progress: Progress) -> Catalogue:
    """List the photos of a run."""
    return list_photos(
        config.sources,
        only=config.only,
        sample=config.sample,
        seed=config.seed,
        access=access_of(config),
        progress=progress.advance,
    )


def access_of(config: RunConfig) -> Access:
    """Return the locations that a run may read."""
    return Access.to(config.sources, config.allow_source, follow_links=config.follow_links)


@dataclass(frozen=True, slots=True)
class Network:
    """The network of a run and its device, found before any photo is listed.

    Attributes
    ----------
    backbone : Backbone
    device : str
    seen : uint64 array, optional
        The photos that the network was trained on, see :func:`fruits.embedding.backbone.training_photos`.
    """

    backbone: Backbone
    device: str
    seen: NDArray[np.uint64] | None

    @classmethod
    def of(cls, config: RunConfig, progress: Progress) -> Network:
        """Find the network and a device that works.

        Raises
        ------
        BackboneError
            If there is no such network, or it cannot be used.
        """
        with naming("backbone", config.backbone):
            backbone = find_backbone(config.backbone)
            seen = training_photos(backbone.card, config.backbone)
        device, word = usable_device(config.device)
        if word:
            progress.note(word)
        return cls(backbone, device, seen)


def start_early(engine: Engine, catalogue: Catalogue, objects: Objects) -> None:
    """Let workers start while the network is prepared, if there are no embeddings, so that there is work for them."""
    if isinstance(engine, LocalEngine) and objects.first_below("embeddings", "") is None:
        engine.start_early(-(-catalogue.num_rows // FEWEST_ROWS))


def prepare(config: RunConfig, network: Network, catalogue: Catalogue, objects: Objects) -> Prepared:
    """Choose the preprocessing and store the prepared network where workers can open it.

    If the photos differ from the network's training photos, a warning is added to the catalogue.
    """
    backbone, device = network.backbone, network.device
    preprocessing = _preprocessing(config, backbone, catalogue, objects)
    stored = EmbeddingTable(config.out, f"embeddings/{computation_id(backbone.card, preprocessing, device)}")
    lock = lock_table(stored)
    if network.seen is not None:
        objects.write(f"{stored.prefix}/{TRAINING_PHOTOS}", network.seen.astype(">u8").tobytes())
    model = _prepared_model(objects, backbone, preprocessing, stored.prefix)
    if unlike := _unlike(backbone.card, catalogue):
        catalogue.warnings.append(unlike)
    return Prepared(backbone.card, preprocessing, model, stored, device, lock)


def embed(
    engine: Engine,
    catalogue: Catalogue,
    prepared: Prepared,
    progress: Progress,
    clock: Clock,
    *,
    keep_missing: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
    has_option: bool = False,
) -> tuple[Inventory, int]:
    """Compute missing embeddings; return the inventory afterwards and the number computed.

    The engine is started only if there is something to compute; its start is timed as a separate step.

    Parameters
    ----------
    keep_missing : bool
        Whether rows of photos that are not in the catalogue stay in the table. Otherwise their number is said before anything is
        computed.
    meanwhile : callable
        Called once in a thread while workers compute, if there is something to compute; an error of it is ignored.
    has_option : bool
        Whether the caller can choose ``keep_missing``, so that the message names the option.
    """
    stored = prepared.stored
    with clock.step("embeddings"):
        inventory = take(stored, catalogue.listed.texts)
        if len(inventory.absent) and _commit_left_over(stored, catalogue.listed.texts, inventory):
            inventory = take(stored, catalogue.listed.texts)
        if inventory.missing and not keep_missing:
            progress.note(_leaving(inventory.missing, has_option=has_option))
        rows = np.union1d(inventory.absent, inventory.failed) if len(inventory.failed) else inventory.absent
    progress.start("embeddings", len(rows))
    computed = len(rows)
    if computed:
        with clock.step("engine"):
            engine.start()
    # Waiting for what was begun meanwhile is no part of the step.
    with _in_a_thread(meanwhile if computed else lambda: None), clock.step("embeddings"):
        while len(rows):
            done = _computed(engine, catalogue, prepared, inventory, rows, progress, clock)
            # Another run may have removed rows since; their files stay on disk until a vacuum.
            inventory = take(stored, catalogue.listed.texts, [*inventory.files, *done])
            rows = inventory.absent  # there are some if a vacuum ran meanwhile
        if not keep_missing and remove_needless(stored, inventory):
            inventory = take(stored, catalogue.listed.texts, inventory.files)
    return inventory, computed


@contextmanager
def _in_a_thread(work: Callable[[], None]) -> Iterator[None]:
    """Do something else in a thread meanwhile, and wait for it at the end."""

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = threading.Thread(target=quietly, name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _computed(
    engine: Engine,
    catalogue: Catalogue,
    prepared: Prepared,
    inventory: Inventory,
    rows: NDArray[Any],
    progress: Progress,
    clock: Clock,
) -> list[File]:
    """Compute the embeddings of some rows and commit their files in waves; return the files.

    Stops early if a vacuum runs meanwhile, because nothing written before it can be committed.
    """
    stored, epoch = prepared.stored, inventory.snapshot.epoch
    work = plan(catalogue.listed.texts, inventory, rows)
    first = random.randrange(len(work))  # noqa: S311 - two runs at once begin apart, and find what the other has written
    stage = EmbedStage(
        prepared.model,
        prepared.preprocessing,
        prepared.card.embedding_size,
        stored,
        epoch,
        catalogue.access,
        prepared.device,
    )
    committed: list[File] = []
    wave: list[File] = []
    due = 0.0

    def commit() -> bool:
        nonlocal due
        started = time.monotonic()
        if not stored.commit(wave, epoch=epoch):
            return False
        due = time.monotonic() + max(_WAVE_S, _WAVE_COMMITS * (time.monotonic() - started))
        committed.extend(wave)
        wave.clear()
        return True

    try:
        for receipts in engine.map_batches(work.shards(first), stage, schemas.RECEIPT):
            for receipt in receipts.to_pylist():
                n = receipt["ok"] + receipt["rejected"] + receipt["failed"]
                progress.advance(n)
                clock.add_work(receipt)
                wave.append(File(receipt["file"], receipt["size_bytes"], n, receipt["modified_ms"]))
            if time.monotonic() >= due and not commit():
                return committed
    except BaseException:
        with suppress(StoreError):  # the first error counts; the next run commits what is left over
            commit()
        raise
    if wave:
        commit()
    return committed


def _commit_left_over(stored: EmbeddingTable, photos: Spool, inventory: Inventory) -> bool:
    """Commit what a killed run has written for the same photos; return whether there was anything."""
    left = list(uncommitted(stored, photos, inventory.snapshot))
    return bool(left) and stored.commit(left, epoch=inventory.snapshot.epoch)


def repair_embeddings(stored: EmbeddingTable, progress: Progress) -> None:
    """Remove damaged files from the table, so that their photos are computed again; report their number."""
    damaged = repair(stored, progress.note)
    progress.note(f"repair: {damaged:,} damaged" if damaged else "repair: every stored byte is as it was written")


def _preprocessing(config: RunConfig, backbone: Backbone, catalogue: Catalogue, objects: Objects) -> Preprocessing:
    """Return the preprocessing: as given by the user, else that of the last run on this output, else by the photos' size.

    It is kept between runs because the typical side of the photos may shift by a pixel as photos are added, which would
    invalidate all embeddings.
    """
    card, size = backbone.card, config.size
    if size is None and isinstance(card.size, tuple):
        kept = _kept_sizes(objects)
        size = kept.get(card.sha256)
        if size is None or not card.size[0] <= size <= card.size[1]:
            size = card.preprocessing(None, None, typical_side(catalogue.listed, catalogue.access)).size
            objects.write("preprocessing.json", json_text({**kept, card.sha256: size}).encode())
    return card.preprocessing(size, config.resize_mode)


def _kept_sizes(objects: Objects) -> dict[str, int]:
    """Return the input sizes of earlier runs by network; an unreadable file counts as absent."""
    try:
        kept = json.loads(objects.read_if_present("preprocessing.json") or b"{}")
    except ValueError:
        return {}
    return {name: size for name, size in kept.items() if isinstance(size, int)} if isinstance(kept, dict) else {}


def _leaving(missing: int, *, has_option: bool) -> str:
    """Return a warning that embeddings of photos that are not listed are about to leave the table."""
    photos = counted(missing, "stored photo")
    verbs = ("is", "leaves") if missing == 1 else ("are", "leave")
    keeping = f"; with {option('keep_missing', True)} their embeddings stay" if has_option else ""
    return (
        f"warning: {photos} {verbs[0]} not among the photos listed now and {verbs[1]} the table of embeddings when the new ones "
        f"are computed{keeping}"
    )


def _prepared_model(objects: Objects, backbone: Backbone, preprocessing: Preprocessing, prefix: str) -> ModelFile:
    """Store the prepared network where workers can open it, once; an existing file is used only if it is intact."""
    key = f"{prefix}/backbone.onnx"
    there, digest = objects.read_many([key, f"{key}.sha256"])
    if there is None or hashlib.sha256(there).hexdigest().encode() != digest:
        there = backbone.prepared(preprocessing)
        objects.write(key, there)
        objects.write(f"{key}.sha256", hashlib.sha256(there).hexdigest().encode())
    return ModelFile(objects.root, key, hashlib.sha256(there).hexdigest())


def _unlike(card: Card, catalogue: Catalogue) -> str | None:
    """Return a warning if the photos differ from the network's training photos, with a recommended network."""
    if card.backdrop != "white":
        return None
    looked, white = white_backdrops(catalogue.listed.texts, catalogue.access)
    if not looked or white >= _LIKE * looked:
        return None
    return (
        f"{looked - white} of {counted(looked, 'photo')} looked at: not on white. {card.name} was made from photos on white "
        f"alone and knows little of others; a network that does better: {option('backbone', DEFAULT_BACKBONE)}"
    )
