"""Files of other tools: answers that come in, scores and rows that go out."""
