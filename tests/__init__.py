"""Tests, divided by what they need: unit (no model), cpu (torch), oracle (diffusers, tomesd), gpu."""
