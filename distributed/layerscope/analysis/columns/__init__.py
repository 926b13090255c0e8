"""From the lines of a file to columns of pairs, of which nothing is guessed."""
