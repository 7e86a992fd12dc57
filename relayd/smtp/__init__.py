"""SMTP without input or output: framing, the server's machine, the client's machine, SASL.  Bytes in, events out."""
