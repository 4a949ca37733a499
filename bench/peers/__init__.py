"""The same features to every installable facility-location library, each in a process of its own: `make peers`."""
