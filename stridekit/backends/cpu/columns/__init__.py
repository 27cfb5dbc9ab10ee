"""The input's gradient as one product whose columns are added up in a fixed order."""
