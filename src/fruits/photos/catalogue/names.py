"""The meaning of folder names: a split, a label, a blank name, or a folder made by the system.

Depends on names only, so folders on disk and keys in a bucket mean the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Final

_TRAIN: Final = (
    "train", "training", "entrainement", "apprentissage", "entrenamiento", "trainieren", "trainingsdaten",
)  # fmt: skip
_VAL: Final = (
    "val", "valid", "validation", "validating", "dev", "development", "validacion", "desarrollo", "validierung",
    "validierungsdaten", "entwicklung",
)  # fmt: skip
_TEST: Final = (
    "test", "testing", "tests", "eval", "evaluation", "essai", "essais", "prueba", "pruebas", "evaluacion", "testdaten",
    "auswertung", "prufung", "evaluierung",
)  # fmt: skip

#: Spelling, without accents and in lower case, to split: English, French, Spanish, German. ``dev`` is for validation and
#: ``eval`` for testing, as in Hugging Face's datasets (https://huggingface.co/docs/datasets/repository_structure).
SPLIT_NAMES: Final = {
    **dict.fromkeys(_TRAIN, "train"),
    **dict.fromkeys(_VAL, "val"),
    **dict.fromkeys(_TEST, "test"),
}
#: Names that are also used for folders unrelated to splits. As the name of a source, they count only beside another split.
_COMMON_WORDS: Final = frozenset(
    {"dev", "development", "eval", "tests", "apprentissage", "desarrollo", "entwicklung", "essai", "essais"}
    | {"prueba", "pruebas", "evaluation", "evaluacion", "evaluierung", "auswertung", "prufung"}
)

#: Folders that systems create beside the user's files (thumbnails, deleted and older files), in lower case, to their origin.
#: From the exclusion lists of Carbon Copy Cloner (https://bombich.com/kb/ccc5/some-files-and-folders-are-automatically-excluded-
#: from-backup-task) and of github/gitignore (Global/Windows, Global/macOS, Global/Linux), and from the documentation of vendors
#: of NAS and cloud drives. Folders whose names begin with a dot are hidden anyway.
SYSTEM_FOLDERS: Final = {
    "@eadir": "Synology: thumbnails and attributes",
    "#recycle": "Synology, Asustor, TerraMaster, UGREEN: deleted files",
    "#snapshot": "Synology: earlier states of the share",
    "@sharesnap": "Synology: snapshots",
    "@tmp": "Synology: files in the making",
    "@synoresource": "Synology: resources of macOS",
    "@sharebin": "Synology Drive: deleted files",
    "@recycle": "QNAP: deleted files",
    "@recently-snapshot": "QNAP: earlier states of the share",
    "@transcode": "QNAP: converted media",
    "~snapshot": "NetApp: earlier states of the share",
    "trashbox": "Buffalo: deleted files",
    "$recycle.bin": "Windows: deleted files",
    "recycler": "Windows XP: deleted files",
    "recycled": "Windows 98: deleted files",
    "system volume information": "Windows: restore points",
    "$windows.~bt": "Windows: an update",
    "$windows.~ws": "Windows: an update",
    "$winreagent": "Windows: recovery",
    "msocache": "Windows: installation files",
    "config.msi": "Windows: installation files",
    "lost+found": "Linux: pieces found by fsck",
    "__macosx": "macOS: attributes in ZIP archives",
    "network trash folder": "macOS: deleted files of a share",
    "temporary items": "macOS: files in the making",
    "thevolumesettingsfolder": "macOS: settings of a share",
    "files_trashbin": "Nextcloud, ownCloud: deleted files",
    "files_versions": "Nextcloud, ownCloud: earlier versions",
    "stversions": "Syncthing: earlier versions",
    "!sync": "Resilio Sync: earlier versions",
    "dropbox.cache": "Dropbox: deleted files",
}
#: Folders in which the disk check of Windows puts fragments of files; they are numbered.
_FOUND: Final = re.compile(r"found\.\d{3}")
#: Invisible characters that Unicode classifies as letters or symbols: the Hangul fillers and the blank Braille pattern.
_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_NAMED: Final = 5


def split_of(name: str) -> str | None:
    """Return the split that a folder's name means: ``train``, ``val``, ``test``, or None."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    word = re.sub(r"[\s_-]+", "", plain.casefold())
    return SPLIT_NAMES.get(word) or SPLIT_NAMES.get(re.sub(r"(set|split)$", "", word))


def split_of_source(name: str, others: Iterable[str]) -> str | None:
    """Return the split that the name of a source means: ``~/dev`` means none alone, and ``val`` beside ``~/train``."""
    split = split_of(name)
    if split is None or re.sub(r"[\s_-]+", "", name.casefold()) not in _COMMON_WORDS:
        return split
    return split if any(split_of(other) not in (None, split) for other in others) else None


def is_system_folder(name: str) -> bool:
    """Return whether a folder is created by a NAS, an operating system or a cloud drive, not by the user."""
    lower = name.lower()
    return lower in SYSTEM_FOLDERS or _FOUND.fullmatch(lower) is not None


def label_of(name: str) -> str | None:
    """Return the label of a folder name, in Unicode form NFC and stripped; None if it has no visible character."""
    label = unicodedata.normalize("NFC", name).strip()
    seen = any(letter not in _BLANK and unicodedata.category(letter)[0] not in "CZM" for letter in label)
    return label if seen else None


def repeated_levels(folders: Iterable[tuple[str, ...]]) -> list[tuple[str, list[str]]]:
    """Find folders that repeat the labels of sibling folders although their names mean no split.

    Parameters
    ----------
    folders : iterable of tuple of str
        Paths of folders that hold photos; the last name is the label.

    Returns
    -------
    list of (str, list of str)
        The parent folder, and the first few folders in it of whose labels at least half are also in a sibling.
    """
    levels: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for parts in folders:
        for depth in range(len(parts) - 1):
            levels[parts[:depth]][parts[depth]].add(parts[-1])
    found = []
    for above, inside in sorted(levels.items()):
        times = Counter(label for labels in inside.values() for label in labels)
        repeating = [
            name
            for name, labels in sorted(inside.items())
            if split_of(name) is None and 2 * sum(times[label] > 1 for label in labels) >= len(labels)
        ]
        if repeating:
            found.append(("/".join(above), repeating[:_NAMED]))
    return found
