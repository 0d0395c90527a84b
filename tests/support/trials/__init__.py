"""Trials of the harness by faults, each in a quick size for the tests and a long one for `make torture`."""
