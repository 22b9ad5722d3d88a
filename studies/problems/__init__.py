"""What a study runs on: images, their files and downloads, networks."""
