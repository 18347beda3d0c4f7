"""Studies: commands that measure one choice of a run on the user's own photos, and write a page with plots."""
