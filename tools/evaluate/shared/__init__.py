"""What workers share of a measurement: numbers of samples, stored part by part until a score is known."""
