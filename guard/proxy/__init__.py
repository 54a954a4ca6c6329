"""The enforcement point: two fronts, the upstreams, the pause ladder and the pipeline between them."""
