"""What a record of routing says of runs that were not made: other capacities, ranks, placements.

Nothing is trained. Who gets a slot is granted by the layer's own code; the rest is counting.
"""
