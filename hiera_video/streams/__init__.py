"""Long videos as windows and chunks, and who decodes what."""
