"""What other tools' pictures tell: metadata, file names, grids."""
