"""Everything between a request and a picture. Nothing in this room imports torch."""
