"""What every floor stands on: files, batches, progress, pictures, the text cache."""
