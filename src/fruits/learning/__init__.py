"""Learning on vectors: moments, PCA, heads, metrics and calibration. Independent of files, engines and Arrow."""
