"""The control room: one table of verbs, and the HTTP API that relayctl and the console speak.

``verbs`` (of ``verb``) is plain and says what can be asked; ``api`` is the Twisted shell that listens and that clients
never import.
"""
