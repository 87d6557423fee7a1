"""The decoder process: forking it, what it is told and answers, and the watch over it."""
