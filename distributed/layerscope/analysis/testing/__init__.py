"""The tests of features: halves, votes of goal groups, effects, label flips, and what they come to."""
