"""What connects the trainer with TuFT: data and HTTP client of its SDK, and the tripwire of a server that ended."""
