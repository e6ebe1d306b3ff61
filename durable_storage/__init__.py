"""Cloudflare Durable Objects storage for Python, embedded in the application."""

__version__ = "0.1.0"
