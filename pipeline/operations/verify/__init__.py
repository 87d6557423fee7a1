"""`verify`: is everything there and right?"""
