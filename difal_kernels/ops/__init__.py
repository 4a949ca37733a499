"""One folder per operation: contract, reference, implementations."""
