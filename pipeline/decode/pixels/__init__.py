"""From a decoded picture to RGB pixels in the size of a clip."""
