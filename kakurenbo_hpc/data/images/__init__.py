"""Image files: their listing, and how one is decoded and cropped."""
