"""Neuronpedia's explanations of a run's features: requests, cache, choice."""
