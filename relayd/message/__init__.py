"""Messages: header sections, trace fields and the rendering of what goes out (RFC 5322)."""
