"""Migrations, one step per file."""
