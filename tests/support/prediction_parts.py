"""What tests of prediction share."""

SELECTION = ("--datasets", "hotpotwikiqa_mixup", "cmrc_mixup", "--lengths", "1k", "2k")
