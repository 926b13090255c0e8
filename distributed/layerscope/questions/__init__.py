"""From files and data sets to questions, from questions to pairs, from pairs to the plan."""
