"""Embedding: backbones with their cards, and the stage that applies them to record batches."""
