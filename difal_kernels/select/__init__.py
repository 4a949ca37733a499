"""The command `difal-select`: choose the samples of an embedding file that cover it best."""
