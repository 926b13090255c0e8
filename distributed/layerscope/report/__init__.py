"""The report: one self-contained page from an analysis."""
