"""relayd against the mail servers of the world, as Debian packages them.  Only ``make test-peers`` runs these."""
