"""Whole days of a relay on a clock that is moved by hand, towards mailbox providers that keep their own books."""
