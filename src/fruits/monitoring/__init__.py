"""Monitoring of a run: seconds per step, memory, progress and timeline."""
