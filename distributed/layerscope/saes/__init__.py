"""Sparse autoencoders: which ones a repository holds and which are taken, reading them, encoding and the top k."""
