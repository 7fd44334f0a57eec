"""Start TuFT, and give it a training model that runs at the speed of the GPU; TuFT's own files stay untouched."""
