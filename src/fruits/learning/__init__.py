"""Vectors to answers: moments, PCA, the head, what it is worth and how sure it may sound. Knows no file, no engine, no Arrow."""
