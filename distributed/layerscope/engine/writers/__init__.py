"""A run of parts: its head, and the writers that write a part each."""
