"""`publish`: parts as a Delta or Iceberg table."""
