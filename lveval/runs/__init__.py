"""What a run leaves on disk: records, the run spec, the append-only store."""
