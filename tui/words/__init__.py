"""What screens say of models, data, runs and exports."""
