"""Features of the pool and the test set: the cache on disk, features of pixels, dense prediction."""
