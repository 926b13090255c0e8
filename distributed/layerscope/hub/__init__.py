"""Files of a repository on the hub or in a folder: listing, fetching, hashes, and the hub's errors in plain words."""
