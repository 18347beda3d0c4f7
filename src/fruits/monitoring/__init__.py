"""What a run costs while it goes on: seconds per step, memory, progress, the timeline."""
