"""Programs: what bodies of loops were seen to ask and to print, and what that tells."""
