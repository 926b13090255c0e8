"""What each command does with the rest."""
