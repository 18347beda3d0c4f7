"""Who may use a route, and how often: tokens, rate limits, and their exchange between instances."""
