"""What the records of a run say: tables, comparisons, statistics, explanations. Needs neither torch nor Ray."""
