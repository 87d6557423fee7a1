"""The file of a video: its structure, the stream that is decoded, and when frames are shown."""
