"""Everything between a request and an image. Nothing in this room imports torch."""
