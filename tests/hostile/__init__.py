"""Mail servers that misbehave, on real sockets, and what a relay makes of each of them."""
