"""Where voxels lie: the one place that decides sizes, directions and order."""
