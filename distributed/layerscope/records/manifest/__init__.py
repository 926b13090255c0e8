"""What lies beside the records: what decided their bytes, and how far they were written."""
