"""HTTP: routes, middleware, uploads, rate limits, errors, the server process."""
