"""What tests of checkup share."""

SMALL = ("--datasets", "hotpotwikiqa_mixup", "--lengths", "1k")
