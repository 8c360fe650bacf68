"""What clients hold: tasks (one file per family), partitions, shards, augmentation."""
