"""Adapters to the libraries we are measured against."""
