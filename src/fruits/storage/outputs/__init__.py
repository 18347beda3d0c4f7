"""Folders that fruits writes: their marker, runs and the pointer to the current one, the lease of an export."""
