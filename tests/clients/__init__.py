"""relayd with the mail libraries that CRMs are made of.  Only ``make test-clients`` runs these, after fetching them."""
