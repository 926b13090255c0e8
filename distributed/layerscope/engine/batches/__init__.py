"""What an actor does with a batch, as plain functions that know nothing of Ray."""
