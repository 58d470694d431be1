"""Training: recipes, what they train on, and the one trainer that all of them share. Importing this imports no torch.

`recipes` declares what there is and which arms a job runs, `spec` is what a training stage is asked and answers. Both
are read by the services; `views`, `losses`, `trainer` and `run` are for the process that trains.
"""
