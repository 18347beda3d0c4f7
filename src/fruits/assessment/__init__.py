"""Commands over a finished run: evaluate under honest protocols, audit the photos."""
