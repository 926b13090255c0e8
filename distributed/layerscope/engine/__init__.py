"""The run: actors, the driver's loop and the cluster under them. Ray is imported here and nowhere else."""
