"""Training: one loop; a method supplies a loss and what is trainable."""
