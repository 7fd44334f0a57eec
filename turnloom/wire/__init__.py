"""Convert plain values to the contract's messages and back: conversations, options, batches, evaluations."""
