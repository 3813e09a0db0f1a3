"""Selection methods, one file each."""
