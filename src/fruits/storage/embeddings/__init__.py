"""Embeddings as a Delta table: writing and reading it, what it has of a catalogue, its upkeep."""
