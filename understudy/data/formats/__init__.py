"""One module per file format. Each yields (line, fields or the reason why there are none) and knows no other format."""
