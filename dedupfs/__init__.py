"""dedupfs: an encrypting filesystem that keeps one ciphertext for every cluster of pictures that look the same."""

__version__ = "0.1.0"
