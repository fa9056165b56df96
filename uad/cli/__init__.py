"""The door: flags become plain values here, and messages for users; no library imports this."""
