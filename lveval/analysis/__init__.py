"""What scores mean: intervals, comparisons, length curves, evidence and error causes."""
