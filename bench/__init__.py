"""The benchmark: relayd beside Postfix on the same machine, disk and load.  ``python -m bench --help``."""
