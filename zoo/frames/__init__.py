"""Tables of any library and files of many kinds, as those of pandas; formulas."""
