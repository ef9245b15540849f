"""Groups of engines on a bare event heap, with everything that goes wrong between them and under them."""
