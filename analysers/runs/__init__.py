"""From a request to a finished study: plan, render, measure, decide."""
