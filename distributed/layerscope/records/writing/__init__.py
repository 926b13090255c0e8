"""The file as a run writes it: lines in order, one run at a time, on the disk before they are counted."""
