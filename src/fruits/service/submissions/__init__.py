"""What the service stores: submissions, photos, tokens; export and erasure."""
