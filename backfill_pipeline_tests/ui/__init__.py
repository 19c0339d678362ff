"""Tests in a real browser, `make test-ui`: what an operator sees and clicks."""
