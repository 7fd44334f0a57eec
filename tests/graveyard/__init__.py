"""Bugs of masks and data that users of other trainers reported, each tried on Turnloom."""
