"""What files of questions hold, in whatever format, and which column is which."""
