"""What a user can choose: hyperparameters, settings, and the recipes that ship."""
