"""Start TuFT with an accelerated training model for GPUs; TuFT's own files stay untouched."""
