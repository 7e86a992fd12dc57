"""What the spool's rooms share about files."""

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable.  Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
