"""What one line of the file holds, and its bytes."""
