"""Egress: sources (one egress IP each, with its EHLO name) and the pools that weigh them."""
