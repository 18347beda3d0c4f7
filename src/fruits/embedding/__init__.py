"""Pixels to vectors: the network with its card, and the stage that applies it to record batches."""
