"""What http/uploads.py promises of memory: uploads of all requests together stay within a budget."""

from __future__ import annotations

import pytest

from fruits.service.http.errors import HttpError
from fruits.service.http.uploads import Budget


def test_budget_is_never_exceeded() -> None:
    budget = Budget(10)
    budget.take(6)
    with pytest.raises(HttpError) as caught:
        budget.take(5)
    assert caught.value.code == "busy"
    assert budget.taken == 6, "what was refused is not reserved"
    budget.take(4)
