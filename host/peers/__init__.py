"""Peers: what people use today, prepared once for a layer's tables, checked within a bound."""

from .base import Peer, TableBatch, Tables, available, lacks, open_peer, peer_names
from .bounds import adagrad_bounds, difference_bound, update_bound, worst_ratio

__all__ = ["Peer", "TableBatch", "Tables", "adagrad_bounds", "available", "difference_bound",
           "lacks", "open_peer", "peer_names", "update_bound", "worst_ratio"]
