"""What a finished or growing file says: which features fire for the right solution and not for the wrong one, and at
which depth. Reads nothing but the file and its manifest; imports neither torch nor Ray."""
