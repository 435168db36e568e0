"""The job `shard`: image and video files become a raw dataset."""
