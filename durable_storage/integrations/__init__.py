"""Optional integrations, each behind its own extra; nothing in the library imports them."""
