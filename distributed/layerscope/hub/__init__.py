"""Files of a repository on the hub or in a folder: listing, fetching, hashes, and the hub's errors in plain words."""

from layerscope.hub.environment import check_endpoint

check_endpoint()  # before the hub's client is imported, which ends in a traceback
