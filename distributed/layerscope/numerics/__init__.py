"""What models and SAEs compute with: matrix products, and the memory of a process that computes. Imports torch."""
