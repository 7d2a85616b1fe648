"""mlflow: the run in MLflow, by a process of its own."""
