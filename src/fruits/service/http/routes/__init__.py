"""The routes of visitors, programs and the owner, with the models of requests and responses."""
