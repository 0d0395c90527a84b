"""Rows to engines: tasks, workers, the pools they live in, dispatch, cost."""
