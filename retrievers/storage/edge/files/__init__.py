"""What lies in a store's folder."""
