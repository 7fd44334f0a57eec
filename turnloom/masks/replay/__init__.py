"""Renders traced once with symbols for strings, and replayed under guards for conversations that answer alike."""
