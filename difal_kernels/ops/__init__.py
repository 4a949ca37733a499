"""One folder per op: `__init__` is its contract, the modules beside it are its implementations."""
