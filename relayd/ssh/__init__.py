"""The console over SSH, and a Python prompt inside the running relay.

``server`` listens, ``keys`` says who may come in, ``transport`` and ``channel`` speak the protocol (RFC 4251 to 4254,
by twisted.conch), ``child`` runs the console, ``manhole`` the prompt, ``recording`` keeps what is typed there.
"""
