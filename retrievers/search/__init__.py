"""A query's vectors -> hits: candidates, fusion, feedback, boosts, MaxSim."""
