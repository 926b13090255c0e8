"""What features do to the margin, by attribution: how much, how surely, and whether those that separate do."""
