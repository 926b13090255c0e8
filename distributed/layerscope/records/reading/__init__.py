"""A run as whoever reads it sees it, whatever files it is in."""
