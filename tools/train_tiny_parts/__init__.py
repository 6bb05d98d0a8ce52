"""Training of what goes with intarsia-tiny: LoRAs, a LoHa, an embedding, an IP adapter, and its variants."""
