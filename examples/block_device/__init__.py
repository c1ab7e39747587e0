"""A disk for a guest: the host's driver, and the guest's driver written twice."""
