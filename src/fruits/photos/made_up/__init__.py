"""Photos of made-up fruit for the demo, tests and load tests."""
