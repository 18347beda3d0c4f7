"""Vectors to answers: moments, PCA, the head and what it is worth. Knows no file, no engine, no Arrow."""
