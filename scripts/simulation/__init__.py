"""What `simulate_cluster.py` is made of: a cluster and actors that only sleep, around the real driver and crew."""
