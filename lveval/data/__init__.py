"""Where rows come from: sources, checks, the memory-mapped copy, prompt templates."""
