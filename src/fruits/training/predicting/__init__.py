"""The answers of ``fruits apply``: for whole photos, and for regions of photos."""
