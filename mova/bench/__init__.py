"""What the engine costs: counted on meta tensors at the released size, and measured where there is a CUDA device."""
