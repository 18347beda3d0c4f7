"""Reviewed photos: for training (export, manifest), for testing, and what later bundles answer."""
