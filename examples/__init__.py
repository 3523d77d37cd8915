"""Programs that show what apcrt is for. Run them from the top of a checkout: `python -m examples.filerep`."""
