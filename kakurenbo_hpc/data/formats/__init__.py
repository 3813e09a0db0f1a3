"""File formats in which public data sets of small images are downloaded."""
