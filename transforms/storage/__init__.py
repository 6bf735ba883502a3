"""What a run keeps: durable files, datasets, what is known of earlier runs, the lock."""
