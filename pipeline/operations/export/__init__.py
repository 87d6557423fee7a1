"""Export of a dataset into the folders that trainers of video generators read."""
