"""The method as pure functions: paths, predictions, objectives, solvers and guidance."""
