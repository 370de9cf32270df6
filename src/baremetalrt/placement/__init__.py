"""Which device or peer runs which span: pure, without clock or network."""
