"""The backend-neutral heart: request, plan, canvas, noise, lanes. No torch import anywhere in this folder."""
