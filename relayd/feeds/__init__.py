"""Feeds: events as they come, into files and into Redis, each from a checkpoint of its own."""

from relayd.feeds.feeds import Feeds
from relayd.feeds.settings import FileSettings, RedisSettings, Settings

__all__ = ["Feeds", "FileSettings", "RedisSettings", "Settings"]
