"""One folder per op: the contract in `__init__`, then one module per backend."""
