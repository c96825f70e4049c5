"""Training: one loop; LoRA and LoHa on masks, whole UNets and ControlNets on images; the base."""
