//! ViT, DINO, schedules, the training engine and checkpoints. burn lives here alone.
