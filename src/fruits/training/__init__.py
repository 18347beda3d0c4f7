"""The flow of a run, from photos to a bundle: embed, fit, evaluate, record."""
