"""Messages of a run about its photos and its choices, and the refusal of photos from which nothing can be learnt."""

from __future__ import annotations

import numpy as np

from fruits.errors import CatalogueError, counted
from fruits.monitoring.clock import Progress
from fruits.photos.catalogue.catalogue import Catalogue, labels_without_training
from fruits.training.fitting.fit import Choice


def refuse_hopeless(catalogue: Catalogue) -> None:
    """Raise before the long work if there is nothing to learn."""
    label = catalogue.listed.coded["label"]
    trained = np.unique(label.codes[catalogue.listed.coded["split"].having("train")])
    labels = [label.names[code] for code in trained]
    if len(labels) < 2:
        found = f"only the label '{labels[0]}'" if labels else "no photos"
        raise CatalogueError(
            f"{found} for training, of {counted(catalogue.num_rows, 'photo')}; expected training photos of "
            "two labels or more: "
            "add some, or check which folders are called Training and Test"
        )


def note_findings(catalogue: Catalogue, progress: Progress) -> None:
    """Say what is odd about the photos, which labels cannot be scored, and whether the split is a guess."""
    for remark in catalogue.remarks():
        progress.note(remark)
    untrained = labels_without_training(catalogue.listed)
    if untrained:
        progress.note(
            f"{len(untrained)} of the labels have no training photo, so they are left out of the scores: "
            + ", ".join(f"{label} ({photos})" for label, photos in untrained.items())
        )
    if catalogue.split_origin == "hash":
        progress.note("none of the photos is marked for testing: a fifth of them is, chosen by a hash")


def note_choices(choice: Choice, progress: Progress) -> None:
    """Say how components and regularisation were chosen."""
    setting = f"{choice.head.parameter} {choice.setting:g}"
    if choice.chosen_by == "seen":
        progress.note(
            f"the network was made from these training photos, so validation on them decides nothing: {choice.components} "
            f"components for 99 % of the variance, {setting}"
        )
    elif tried := len(choice.component_trials) + len(choice.setting_trials):
        progress.note(
            f"{counted(tried, 'head')} tried on validation photos: {counted(choice.components, 'component')}, {setting}"
        )
