"""Whose account the stand-ins of AWS play, and where."""

REGION = "eu-west-1"
ACCOUNT = "123456789012"
