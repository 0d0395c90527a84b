"""LV-Eval-style data: sources, distractors, mix-up."""
