"""Synthetic photos of fruit for the demo, tests and load tests."""
