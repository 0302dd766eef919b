"""Peers: what people use today, behind the device API, for comparison within an error bound."""

from .base import Peer, available, difference_bound, open_peer, update_bound, worst_ratio

__all__ = ["Peer", "available", "difference_bound", "open_peer", "update_bound", "worst_ratio"]
