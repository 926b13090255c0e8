"""What the records say: statistics, report, export, explanations."""
