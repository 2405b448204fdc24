"""The trainer: the loop and its parts, and `Trainer`. It imports everything below it; nothing below imports it."""
