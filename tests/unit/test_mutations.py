"""The list of mutations still fits the source: python -m faults.mutations runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults.mutations import ROOT, Mutation, mutations


@pytest.mark.parametrize("mutation", mutations(), ids=lambda one: f"{one.file}-{one.old[:20]}")
def test_a_mutation_changes_one_place_and_names_tests_that_are_there(mutation: Mutation) -> None:
    source = ROOT / "src/fruits" / mutation.file
    compile(mutation.applied_to(source.read_text("utf-8")), mutation.file, "exec")
    assert mutation.tests
    assert all(Path(ROOT, name).is_file() for name in mutation.tests)
