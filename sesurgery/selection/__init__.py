"""The best subset of sites under a budget: enumerated, ranked by one training, chosen, checked by trainings."""
