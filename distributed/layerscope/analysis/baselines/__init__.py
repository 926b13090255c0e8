"""What else tells the right solution from the wrong one, measured as features are: baselines beside the findings."""
