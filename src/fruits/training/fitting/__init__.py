"""From stored embeddings to a recogniser: training set, features, choices, head, thresholds."""
