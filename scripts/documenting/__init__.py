"""What the pages under `distributed/docs/` repeat of the code, made from the code."""
