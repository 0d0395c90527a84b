"""The ground: errors and exit codes, durable files, text, logs, processes."""
