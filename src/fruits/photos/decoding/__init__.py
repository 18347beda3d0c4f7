"""Decoding bytes to pixels, in a sandboxed process."""
