"""Webhooks: events posted to customers' own servers, in order, signed, again and again until they are taken.

Each webhook follows the history behind places of its own; there is no queue.  Floors within: signature, target,
standing < batch, shelf, post, lanes < report < sender.
Nothing is imported here: verbs need the signature, and no Twisted.
"""
