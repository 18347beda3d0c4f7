"""Which photos there are: listing, manifests, labels, splits, groups."""
