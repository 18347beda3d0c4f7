"""The web pages and the routes that serve them."""
