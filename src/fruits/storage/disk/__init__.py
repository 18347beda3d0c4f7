"""The local disk: untrusted files, locks, files only for this user, and whether a writer has ended."""
