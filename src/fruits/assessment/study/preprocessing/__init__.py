"""``fruits study preprocessing``: treatments of photos, alone and together, embedded and scored on the same folds."""
