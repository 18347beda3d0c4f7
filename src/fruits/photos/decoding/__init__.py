"""Bytes to pixels, in a sandboxed process."""
