"""The operator's console: a terminal view of a running relayd, by its control API alone."""
