"""What users of comparable daemons have met in the field, tried on the real program: docs/field.md lists the kinds."""
